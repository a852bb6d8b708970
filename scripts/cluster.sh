# Several nodes on one machine, with a PostgreSQL of their own: the part of scripts/run that --cluster needs. To be
# sourced, with what scripts/run sets. Everything ends with the script.

# PostgreSQL does not run as root: then it runs as the user postgres, in a folder which that user can reach.
database_folder() {
    if [ "$(id -u)" -eq 0 ]; then
        printf '/var/lib/postgresql/kmsd-%s\n' "$(printf '%s' "$data" | sha256sum | cut -c1-12)"
    else
        printf '%s\n' "$data/postgres"
    fi
}

# as_database COMMAND...: one of PostgreSQL's programs, the newest that is installed, as the owner of its files.
as_database() {
    local name=$1 programs
    shift
    programs=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
    if [ "$(id -u)" -eq 0 ]; then
        (cd / && setpriv --reuid postgres --regid postgres --init-groups "$programs/$name" "$@")
    else
        "$programs/$name" "$@"
    fi
}

# Only its owner and root reach the socket, which lies in the database's folder.
start_database() {
    if [ ! -e "$database/PG_VERSION" ]; then
        [ "$(id -u)" -ne 0 ] || install -d -m 700 -o postgres -g postgres "$database"
        as_database initdb -A trust -U kmsd --no-instructions -E UTF8 --locale=C "$database" >/dev/null ||
            fail "initdb failed (see above)"
    fi
    as_database pg_ctl -D "$database" status >/dev/null ||
        as_database pg_ctl -D "$database" -l "$database/log" -w -s \
            -o "-c unix_socket_directories=$database -c listen_addresses=" start ||
        fail "PostgreSQL did not start: see $database/log"
    as_database psql -h "$database" -U kmsd -AtX -c "SELECT 1 FROM pg_database WHERE datname = 'kmsd'" postgres | grep -q 1 ||
        as_database createdb -h "$database" -U kmsd kmsd
}

stop_cluster() {
    local pid
    trap - EXIT
    trap '' INT TERM
    say "stopping"
    for pid in "${nodes[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${nodes[@]}"; do wait "$pid" || true; done
    as_database pg_ctl -D "$database" -m fast -w -s stop || true
}

# answers ADDRESS: /readyz says yes.
answers() {
    "$root/.venv/bin/python" -c 'import sys, urllib.request as r; r.urlopen(f"http://{sys.argv[1]}/readyz", timeout=5)' "$1" 2>/dev/null
}

# start_node NUMBER: node-NUMBER of the cluster, made if it is not there. Adds to nodes and addresses.
start_node() {
    local name=node-$1 folder=$data/node-$1 address=${host}:$((port + $1 - 1)) command
    mkdir -p "$folder"
    if [ ! -e "$folder/kmsd.toml" ]; then
        write_config "$folder/kmsd.toml" "$folder/kmsd" "$address" "${workers:-1}"
        printf '\n[store]\nurl = "postgresql://kmsd@/kmsd?host=%s"\n' "$database" >>"$folder/kmsd.toml"
    fi
    set_value "$folder/kmsd.toml" listen address "\"$address\""
    [ -z "$workers" ] || set_value "$folder/kmsd.toml" "" workers "$workers"
    command=("$root/.venv/bin/kmsd" --config "$folder/kmsd.toml")
    if [ "$1" -eq 1 ]; then
        init_once "${command[@]}"
    elif [ ! -e "$folder/kmsd/node.json" ]; then
        "${command[@]}" join --name "$name" >&2 || fail "$name could not join (see above)"
    fi
    "${command[@]}" serve >"$folder/log" 2>&1 &
    nodes+=($!) addresses+=("$address")
}

# Run all nodes until one of them ends, or the script is ended.
run_cluster() {
    local number database host port nodes=() addresses=()
    [[ $cluster =~ ^[1-9][0-9]?$ ]] || fail "--cluster needs a number of nodes, from 1 to 99"
    listen=${listen:-127.0.0.1:8480}
    host=${listen%:*} port=${listen##*:}
    need_postgres
    database=$(database_folder)
    trap stop_cluster EXIT
    trap exit INT TERM
    start_database
    for number in $(seq "$cluster"); do start_node "$number"; done
    for number in "${!nodes[@]}"; do
        until answers "${addresses[$number]}"; do
            kill -0 "${nodes[$number]}" 2>/dev/null || fail "a node ended: see $data/node-$((number + 1))/log"
            sleep 0.2
        done
        say "node-$((number + 1)): http://${addresses[$number]}"
    done
    say "in another shell: source $data/client.env; aws kms create-key (AWS_ENDPOINT_URL names the first node)"
    say "Ctrl-C stops the nodes and their PostgreSQL ($database)"
    wait -n || true
    say "a node has ended: see $data/node-*/log"
}
