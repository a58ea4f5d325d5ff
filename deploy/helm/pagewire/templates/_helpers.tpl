{{/* Names, labels, and what pods have in common. Flags and environment of membership stand here alone. */}}

{{- define "pagewire.name" -}}
{{- if contains "pagewire" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-pagewire" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* Takes a dict: root, and component ("" for what belongs to all). */}}
{{- define "pagewire.selector" -}}
app.kubernetes.io/name: pagewire
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{- define "pagewire.labels" -}}
{{ include "pagewire.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "pagewire.secret" -}}
{{ .Values.secrets.existing | default (include "pagewire.name" .) }}
{{- end }}

{{/* Takes a dict: root, and image, one of .Values.images. */}}
{{- define "pagewire.image" -}}
{{- if contains "@" .image -}}
{{ .image }}
{{- else -}}
{{ printf "%s:%s" .image (.root.Values.images.tag | default .root.Chart.AppVersion) }}
{{- end -}}
{{- end }}

{{/* How routers and nodes find each other. */}}
{{- define "pagewire.membership" -}}
- name: PAGEWIRE_CLUSTER
  value: {{ .Values.cluster | default (printf "%s-%s" .Release.Namespace .Release.Name) | quote }}
{{- if .Values.redis.enabled }}
- name: PAGEWIRE_REGISTRY
  value: redis://{{ include "pagewire.name" . }}-redis:6379/0
- name: PAGEWIRE_REGISTRY_PASSWORD_FILE
  value: /run/secrets/pagewire/redis-password
{{- else if .Values.registry.url }}
- name: PAGEWIRE_REGISTRY
  value: {{ .Values.registry.url | quote }}
{{- else }}
- name: PAGEWIRE_REGISTRY
  valueFrom: { secretKeyRef: { name: {{ required "give registry.url or secrets.existing, or let redis.enabled be true" .Values.secrets.existing }}, key: registry-url } }
{{- end }}
{{- end }}

{{/* The environment of routers and nodes. */}}
{{- define "pagewire.environment" -}}
- name: POD_IP
  valueFrom: { fieldRef: { fieldPath: status.podIP } }
{{ include "pagewire.membership" . }}
- name: PAGEWIRE_CLUSTER_SECRET_FILE
  value: /run/secrets/pagewire/cluster-secret
{{- if .Values.models.offline }}
- name: HF_HUB_OFFLINE
  value: "1"
{{- end }}
{{- with .Values.secrets.huggingFace }}
- name: HF_TOKEN
  valueFrom: { secretKeyRef: { name: {{ . }}, key: token } }
{{- end }}
{{- end }}

{{- define "pagewire.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.runAsUser }}
runAsGroup: {{ .Values.runAsGroup }}
fsGroup: {{ .Values.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "pagewire.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: ["ALL"] }
{{- end }}

{{/* What every pod spec begins with. */}}
{{- define "pagewire.podBasics" -}}
automountServiceAccountToken: false
enableServiceLinks: false  # their variables begin with the release's name: PAGEWIRE_PORT would be ours
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext:
  {{- include "pagewire.podSecurity" . | nindent 2 }}
{{- end }}

{{/* Where pods go. Takes a dict: root, component, and pool, the values of it. */}}
{{- define "pagewire.placement" -}}
{{- with .pool.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .pool.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if .pool.topologySpreadConstraints }}
  {{- toYaml .pool.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "pagewire.selector" . | nindent 8 }}
{{- end }}
{{- end }}

{{/* Takes a dict: root, and entries, those of the secret that the pod may read. */}}
{{- define "pagewire.secretVolume" -}}
- name: secrets
  secret:
    secretName: {{ include "pagewire.secret" .root }}
    defaultMode: 0440
    items:
    {{- range .entries }}
      - { key: {{ . }}, path: {{ . }} }
    {{- end }}
{{- end }}

{{/* Volumes of routers and nodes. Takes a dict: root, and entries, as above, beside what both need. */}}
{{- define "pagewire.volumes" -}}
{{- $entries := concat (list "cluster-secret") (ternary (list "redis-password") list .root.Values.redis.enabled) .entries }}
{{- include "pagewire.secretVolume" (dict "root" .root "entries" $entries) }}
- name: tmp
  emptyDir: { sizeLimit: 1Gi }
- name: models
{{- if .root.Values.models.existingClaim }}
  persistentVolumeClaim: { claimName: {{ .root.Values.models.existingClaim }} }
{{- else }}
  emptyDir: { sizeLimit: {{ .root.Values.models.sizeLimit }} }
{{- end }}
{{- end }}

{{- define "pagewire.mounts" -}}
- { name: secrets, mountPath: /run/secrets/pagewire, readOnly: true }
- { name: tmp, mountPath: /tmp }
- { name: models, mountPath: /models }
{{- end }}
