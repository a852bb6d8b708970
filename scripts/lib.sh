# Shared by the scripts: what the machine must have, and the virtual environment. To be sourced, with $root set.

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
fail() { say "$@"; exit 1; }

# need_packages NAME...: Debian packages, installed if they are missing and it can be done without asking.
need_packages() {
    local missing=() name
    command -v dpkg-query >/dev/null || { need_by_hand "$@"; return; }
    for name in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
    done
    [ ${#missing[@]} -eq 0 ] && return
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || fail "missing: ${missing[*]} (get them with: sudo apt-get install ${missing[*]})"
        as_root=(sudo -n)
    fi
    say "installing ${missing[*]}"
    {
        "${as_root[@]}" apt-get update -q &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
    } >&2 || fail "apt-get could not install: ${missing[*]} (see above; network, or a package source, may be missing)"
}

need_by_hand() {
    say "this is not Debian: make sure that you have what these Debian packages hold: $*"
}

# PostgreSQL's programs, without the server that Debian's package starts unless it is told not to.
need_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && return
    need_packages postgresql-common
    local as_root=() settings=/etc/postgresql-common/createcluster.conf
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    printf 'create_main_cluster = false\n' | "${as_root[@]}" tee -a "$settings" >/dev/null
    need_packages postgresql
}

# The interpreter: $PYTHON if given, else the system's (built with profile-guided optimisation), else the first in PATH.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" /usr/bin/python3 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
            { printf '%s\n' "$candidate"; return; }
    done
    fail "Python 3.11 or newer is needed (Debian 12: apt-get install python3; elsewhere set PYTHON=/path/to/python3)"
}

# install_locked PYTHON FILE...: exactly what the locks pin. The locks are complete, so pip resolves nothing: what is
# released later changes nothing. Only wheels, so that nothing is built with what is not pinned.
install_locked() {
    local python=$1 file requirements=()
    shift
    for file in "$@"; do requirements+=(-r "$file"); done
    "$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        "${requirements[@]}" || fail "pip could not install the requirements (see above)"
}

# check_installed PYTHON: every package has what it needs, in the version that it asks for.
check_installed() {
    "$1" -m pip check -q --disable-pip-version-check >&2 || fail "a requirement lacks what it needs (see above)"
}

# build_wheel PYTHON DIR: a wheel of this checkout, in DIR. The build leaves nothing in the checkout.
build_wheel() {
    local python=$1 dir=$2
    say "building a wheel"
    build_environment "$python" "$dir"
    mkdir "$dir/source"
    cp -R "$root/kmsd" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$dir/source/"
    find "$dir/source" -name __pycache__ -prune -exec rm -rf {} +
    "$dir/build/bin/pip" wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w "$dir" "$dir/source" ||
        fail "the wheel could not be built (see above)"
}

# build_environment PYTHON DIR: what builds the package, in DIR/build.
build_environment() {
    "$1" -m venv "$2/build" || fail "python -m venv failed (Debian: apt-get install python3-venv)"
    install_locked "$2/build/bin/python" "$root/requirements-build.txt"
}

# need_environment FILE...: .venv with exactly what the requirement files pin, and kmsd itself, editable.
need_environment() {
    local python stamp file line missing=
    python=$(find_python)
    stamp=$("$python" --version; cd "$root" && sha256sum pyproject.toml requirements-build.txt "$@")
    # One line for each file: what scripts/test has set up is all that scripts/run needs, and stays as it is.
    while read -r line; do grep -Fxqs -- "$line" "$root/.venv/stamp" || missing=1; done <<<"$stamp"
    [ -z "$missing" ] && return
    say "setting up .venv"
    [ -x "$root/.venv/bin/python" ] && "$root/.venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        "$python" -m venv --clear "$root/.venv" || fail "python -m venv failed (Debian: apt-get install python3-venv)"
    local requirements=()
    for file in requirements-build.txt "$@"; do requirements+=("$root/$file"); done
    install_locked "$root/.venv/bin/python" "${requirements[@]}"
    "$root/.venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e "$root" ||
        fail "pip could not install kmsd (see above)"
    check_installed "$root/.venv/bin/python"
    printf '%s\n' "$stamp" >"$root/.venv/stamp"
}

# set_value FILE SECTION NAME VALUE: the value of NAME in one section of a TOML file; section "" is what precedes the first.
set_value() {
    local file=$1 section=$2 name=$3 value=$4
    awk -v wanted="[$section]" -v name="$name" -v value="$value" '
        BEGIN { current = "[]" }
        /^[[:space:]]*\[/ { current = $0; gsub(/[[:space:]]|#.*/, "", current) }
        current == wanted && $0 ~ "^[[:space:]]*" name "[[:space:]]*=" { $0 = name " = " value; found = 1 }
        { print }
        END { exit !found }' "$file" >"$file.new" || { rm -f "$file.new"; fail "$file has no $name in [$section]"; }
    mv "$file.new" "$file"
}

# Where Debian, Fedora and Homebrew put SoftHSM2's module.
softhsm_module() {
    local candidate
    for candidate in "${SOFTHSM2_MODULE:-}" /usr/lib/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so \
        /usr/lib/pkcs11/libsofthsm2.so /opt/homebrew/lib/softhsm/libsofthsm2.so; do
        [ -n "$candidate" ] && [ -e "$candidate" ] && { printf '%s\n' "$candidate"; return; }
    done
    fail "libsofthsm2.so was not found (Debian: apt-get install softhsm2; elsewhere set SOFTHSM2_MODULE=/path/to/it)"
}

# Where Debian, Fedora and Homebrew put NSS's module.
nss_module() {
    local candidate
    for candidate in "${NSS_MODULE:-}" "/usr/lib/$(uname -m)-linux-gnu/libsoftokn3.so" /usr/lib64/libsoftokn3.so \
        /usr/lib/libsoftokn3.so /opt/homebrew/lib/libsoftokn3.dylib; do
        [ -n "$candidate" ] && [ -e "$candidate" ] && { printf '%s\n' "$candidate"; return; }
    done
    fail "libsoftokn3.so was not found (Debian: apt-get install libnss3; elsewhere set NSS_MODULE=/path/to/it)"
}
