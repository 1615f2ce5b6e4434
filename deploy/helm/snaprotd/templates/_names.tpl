{{- /* The name of every object: `snaprotd` for a release of that name, else `<release>-snaprotd`. */}}
{{- define "snaprotd.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "snaprotd.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "snaprotd.labels" -}}
{{ include "snaprotd.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "snaprotd.metadata" -}}
name: {{ include "snaprotd.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "snaprotd.labels" . | nindent 2 }}
{{- end }}
