{{- /* What both containers have in common. */ -}}
{{- define "kmsd.container" -}}
image: {{ include "kmsd.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources: {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - {name: data, mountPath: /var/lib/kmsd}
  - {name: tmp, mountPath: /tmp}
  - {name: configuration, mountPath: /etc/kmsd, readOnly: true}
  - {name: tls, mountPath: /run/secrets/tls, readOnly: true}
  - {name: pin, mountPath: /run/secrets/pin, readOnly: true}
  {{- if include "kmsd.hasPassword" . }}
  - {name: database-password, mountPath: /run/secrets/database, readOnly: true}
  {{- end }}
  {{- if .Values.databaseCa.configMapName }}
  - {name: database-ca, mountPath: /run/secrets/database-ca, readOnly: true}
  {{- end }}
  {{- if .Values.tls.clientCa.configMapName }}
  - {name: client-ca, mountPath: /run/secrets/client-ca, readOnly: true}
  {{- end }}
  {{- with .Values.hsm.volumeMounts }}{{ toYaml . | nindent 2 }}{{ end }}
{{- end }}

{{- /* With clientCa the kubelet has no certificate to show: the image's own check then sees if the port accepts connections. */ -}}
{{- define "kmsd.probe" -}}
{{- $path := index . 1 }}{{- with index . 0 }}
{{- if .Values.tls.clientCa.configMapName -}}
exec:
  command: ["/usr/bin/python3", "/usr/share/kmsd/healthcheck.py"]
{{- else -}}
httpGet: {path: {{ $path }}, port: api, scheme: HTTPS}
{{- end }}
{{- end }}
{{- end }}

{{- define "kmsd.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
- name: configuration
  configMap:
    name: {{ include "kmsd.fullname" . }}
    defaultMode: 0444
- name: tls
  secret:
    secretName: {{ include "kmsd.tlsSecret" . }}
    defaultMode: 0440
- name: pin
  {{- include "kmsd.secretVolume" .Values.pin | nindent 2 }}
{{- if include "kmsd.hasPassword" . }}
- name: database-password
  {{- include "kmsd.secretVolume" .Values.databasePassword | nindent 2 }}
{{- end }}
{{- with .Values.databaseCa.configMapName }}
- name: database-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.tls.clientCa.configMapName }}
- name: client-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- with .Values.hsm.volumes }}{{ toYaml . | nindent 0 }}{{ end }}
{{- end }}

{{- /* A secret as a file: of a Secret, or of a CSI driver. */ -}}
{{- define "kmsd.secretVolume" -}}
{{- if .secretName -}}
secret:
  secretName: {{ .secretName }}
  defaultMode: 0440
  items: [{key: {{ .key }}, path: {{ .key }}}]
{{- else -}}
csi: {{- toYaml .csi | nindent 2 }}
{{- end }}
{{- end }}
