{{- define "kmsd.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "kmsd.nodes" -}}{{ include "kmsd.fullname" . }}-nodes{{- end }}

{{- define "kmsd.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kmsd.labels" -}}
{{ include "kmsd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "kmsd.image" -}}
{{ .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- /* The Secret with the certificate. */ -}}
{{- define "kmsd.tlsSecret" -}}
{{ .Values.tls.secretName | default (printf "%s-tls" (include "kmsd.fullname" .)) }}
{{- end }}

{{- /* A value of TOML: JSON's strings, numbers and booleans are TOML's, too. */ -}}
{{- define "kmsd.toml" -}}
{{- if kindIs "map" . }}{
  {{- $first := true }}{{- range $name, $value := . }}{{- if not $first }},{{ end }} {{ mustToJson $name }} = {{ include "kmsd.toml" $value }}{{- $first = false }}{{- end }} }
{{- else if kindIs "slice" . }}[
  {{- range $index, $value := . }}{{- if $index }}, {{ end }}{{ include "kmsd.toml" $value }}{{- end }}]
{{- else }}{{ mustToJson . }}{{- end }}
{{- end }}

{{- /* The whole of kmsd.toml: what the values say, and what this chart knows. */ -}}
{{- define "kmsd.configuration" -}}
{{- $config := deepCopy .Values.config }}
{{- $own := dict
  "data_dir" "/var/lib/kmsd/data"
  "public_url" ($config.public_url | default (printf "https://%s.%s.svc:%v" (include "kmsd.fullname" .) .Release.Namespace .Values.service.port))
  "listen" (dict "address" (printf "%s:8443" .Values.listenHost) "tls_certificate" "/run/secrets/tls/tls.crt" "tls_key" "/run/secrets/tls/tls.key")
  "token" (dict "pin_file" (printf "/run/secrets/pin/%s" .Values.pin.key)) }}
{{- if .Values.tls.clientCa.configMapName }}
  {{- $_ := set $own.listen "tls_client_ca" (printf "/run/secrets/client-ca/%s" .Values.tls.clientCa.key) }}
{{- end }}
{{- if .Values.metrics.enabled }}
  {{- $_ := set $own "metrics" (dict "address" (printf "%s:9480" .Values.listenHost) "tls" true) }}
{{- end }}
{{- if include "kmsd.onPostgresql" . }}
  {{- $_ := set $own "store" (dict) }}
  {{- if include "kmsd.hasPassword" . }}
    {{- $_ := set $own.store "password_file" (printf "/run/secrets/database/%s" .Values.databasePassword.key) }}
  {{- end }}
  {{- if .Values.databaseCa.configMapName }}
    {{- $_ := set $own.store "tls_ca" (printf "/run/secrets/database-ca/%s" .Values.databaseCa.key) }}
  {{- end }}
{{- end }}
{{- range $name, $value := omit $own "public_url" }}
  {{- if not (kindIs "map" $value) }}
    {{- if hasKey $config $name }}{{ fail (printf "config.%s: the chart sets it" $name) }}{{ end }}
  {{- else }}
    {{- range $setting, $_ := $value }}
      {{- if hasKey (index $config $name | default dict) $setting }}{{ fail (printf "config.%s.%s: the chart sets it" $name $setting) }}{{ end }}
    {{- end }}
  {{- end }}
{{- end }}
{{- if hasKey $config "metrics" }}{{ fail "config.metrics: the chart sets it, by metrics.enabled" }}{{ end }}
{{- $all := mustMergeOverwrite $config $own }}
{{- range $name, $value := $all }}{{- if not (kindIs "map" $value) }}
{{ $name }} = {{ include "kmsd.toml" $value }}
{{- end }}{{- end }}
{{- range $name, $value := $all }}{{- if kindIs "map" $value }}
[{{ $name }}]
{{- range $setting, $given := $value }}
{{ $setting }} = {{ include "kmsd.toml" $given }}
{{- end }}
{{- end }}{{- end }}
{{- end }}

{{- define "kmsd.onPostgresql" -}}{{ if (.Values.config.store | default dict).url }}yes{{ end }}{{- end }}
{{- define "kmsd.hasPassword" -}}{{ if or .Values.databasePassword.secretName .Values.databasePassword.csi }}yes{{ end }}{{- end }}

{{- /* What must not be rendered: each line says what to change. */ -}}
{{- define "kmsd.requirements" -}}
{{- $values := .Values }}
{{- if and (gt (int $values.replicas) 1) (not (include "kmsd.onPostgresql" .)) }}
  {{- fail "replicas: more than one needs PostgreSQL, by config.store.url (docs/postgresql.md)" }}
{{- end }}
{{- if not $values.config.token.module }}{{ fail "config.token.module: name the PKCS#11 library" }}{{ end }}
{{- if eq (empty $values.pin.secretName) (empty $values.pin.csi) }}
  {{- fail "pin: give either secretName or csi" }}
{{- end }}
{{- if and $values.databasePassword.secretName $values.databasePassword.csi }}
  {{- fail "databasePassword: give either secretName or csi" }}
{{- end }}
{{- if eq (empty $values.tls.secretName) (not $values.tls.certManager.enabled) }}
  {{- fail "tls: give either secretName or certManager" }}
{{- end }}
{{- if and $values.tls.certManager.enabled (not $values.tls.certManager.issuerRef.name) }}
  {{- fail "tls.certManager.issuerRef: name the issuer" }}
{{- end }}
{{- if and (or $values.metrics.serviceMonitor.enabled $values.metrics.rules.enabled) (not $values.metrics.enabled) }}
  {{- fail "metrics.enabled: the ServiceMonitor and the alert rules need it" }}
{{- end }}
{{- if and $values.metrics.serviceMonitor.enabled $values.tls.clientCa.configMapName (not $values.metrics.serviceMonitor.clientSecretName) }}
  {{- fail "metrics.serviceMonitor.clientSecretName: with tls.clientCa Prometheus needs a certificate" }}
{{- end }}
{{- if $values.networkPolicy.enabled }}
  {{- if and (include "kmsd.onPostgresql" .) (empty $values.networkPolicy.database.to) }}
    {{- fail "networkPolicy.database.to: say where PostgreSQL is" }}
  {{- end }}
  {{- if and $values.metrics.enabled (empty $values.networkPolicy.prometheus) }}
    {{- fail "networkPolicy.prometheus: say who may fetch metrics" }}
  {{- end }}
{{- end }}
{{- $minimum := addf 20 $values.preStopSeconds (($values.config.listen | default dict).drain_seconds | default 2) }}
{{- if lt (float64 $values.terminationGracePeriodSeconds) $minimum }}
  {{- fail (printf "terminationGracePeriodSeconds: must be %v or more" $minimum) }}
{{- end }}
{{- end }}
