{{/* Labels of everything. Selectors use the first two of them and, for nodes, the shard. */}}
{{- define "onsale.labels" -}}
{{ include "onsale.selector" . }}
app.kubernetes.io/name: onsale
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Of pods. No version among them: a new chart must exchange nothing that it does not change. */}}
{{- define "onsale.podLabels" -}}
{{ include "onsale.selector" . }}
app.kubernetes.io/name: onsale
{{- end }}

{{- define "onsale.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .shard }}
onsale/shard: {{ . }}
{{- end }}
{{- end }}

{{/* A shard of the list, with what it does not say itself. */}}
{{- define "onsale.shard" -}}
{{- $shard := .shard -}}
{{- dict "name" $shard.name
      "cluster" (printf "%s-%s" .root.Release.Name $shard.name)
      "postgres" (mergeOverwrite (deepCopy .root.Values.postgres) ($shard.postgres | default dict | deepCopy))
      "nodes" (mergeOverwrite (deepCopy .root.Values.nodes) ($shard.nodes | default dict | deepCopy)) | toYaml -}}
{{- end }}

{{- define "onsale.catalog" -}}
{{- dict "name" "catalog"
      "cluster" (printf "%s-catalog" .Release.Name)
      "postgres" (mergeOverwrite (deepCopy .Values.postgres) (deepCopy .Values.catalog.postgres)) | toYaml -}}
{{- end }}

{{- define "onsale.readSide" -}}
{{- dict "name" "read-side"
      "cluster" (printf "%s-read-side" .Release.Name)
      "postgres" (mergeOverwrite (deepCopy .Values.postgres) (deepCopy .Values.readSide.postgres)) | toYaml -}}
{{- end }}

{{/* Catalog and shards, as { databases: […] }. */}}
{{- define "onsale.databases" -}}
{{- $all := list (include "onsale.catalog" . | fromYaml) -}}
{{- range .Values.shards -}}
{{- $all = append $all (include "onsale.shard" (dict "root" $ "shard" .) | fromYaml) -}}
{{- end -}}
{{- dict "databases" $all | toYaml -}}
{{- end }}

{{- define "onsale.image" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{- define "onsale.secret" -}}
{{ .Values.secrets.existing | default (printf "%s-secrets" .Release.Name) }}
{{- end }}

{{/* Pod Security `restricted`, no token of the API, and where pods run. 1000 is the image's user `node`. */}}
{{- define "onsale.podSettings" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user | default 1000 }}
  runAsGroup: {{ .user | default 1000 }}
  fsGroup: {{ .user | default 1000 }}
  # RabbitMQ refuses a cookie that its group may read.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.scheduling.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.scheduling.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "onsale.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* Pods of a kind on several machines and zones, as far as there are any. */}}
{{- define "onsale.spread" -}}
topologySpreadConstraints:
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels: {{ include "onsale.selector" $ | nindent 8 }}
{{- end }}
{{- end }}

{{/* The heap is two thirds of the memory limit: the rest is for buffers, code and threads. */}}
{{- define "onsale.command" -}}
{{- $limit := toString .resources.limits.memory -}}
{{- $mebibytes := 0 -}}
{{- if hasSuffix "Gi" $limit }}{{ $mebibytes = mulf (trimSuffix "Gi" $limit | float64) 1024 }}
{{- else }}{{ $mebibytes = trimSuffix "Mi" $limit | float64 }}{{ end -}}
command: [node, "--max-old-space-size={{ divf $mebibytes 1.5 | floor | int }}", "--max-semi-space-size=32", {{ .script }}]
{{- end }}

{{/* Asked at the admin port. Databases may come later than who needs them: a process that waits for them lives, and is not ready. */}}
{{- define "onsale.probes" -}}
startupProbe:
  httpGet: { path: /healthz, port: admin }
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
readinessProbe:
  httpGet: { path: /readyz, port: admin }
  periodSeconds: 1
  timeoutSeconds: 3
  failureThreshold: 2
livenessProbe:
  httpGet: { path: /healthz, port: admin }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* A database's password, and its URL. The server's certificate is checked against CloudNativePG's authority of that cluster. */}}
{{- define "onsale.passwordEnv" -}}
- name: {{ .variable }}
  valueFrom: { secretKeyRef: { name: {{ .database.cluster }}-{{ .root.Values.postgres.login | replace "_" "-" }}, key: password } }
{{- end }}

{{- define "onsale.databaseName" -}}
{{- get (dict "catalog" "catalog" "read-side" "read_side") .name | default "shard" -}}
{{- end }}

{{- define "onsale.databaseUrl" -}}
postgres://{{ .root.Values.postgres.login }}:$({{ .variable }})@{{ .database.cluster }}-{{ .service }}:5432/
{{- include "onsale.databaseName" .database }}?sslmode=verify-full&sslrootcert=/run/onsale/{{ .database.name }}/ca.crt
{{- end }}

{{- define "onsale.authorityVolumes" -}}
volumes:
  {{- range .databases }}
  - name: ca-{{ .name }}
    secret: { secretName: {{ .cluster }}-ca, items: [{ key: ca.crt, path: ca.crt }] }
  {{- end }}
{{- end }}

{{- define "onsale.authorityMounts" -}}
volumeMounts:
  {{- range .databases }}
  - { name: ca-{{ .name }}, mountPath: /run/onsale/{{ .name }}, readOnly: true }
  {{- end }}
{{- end }}

{{/* What routers and nodes share. */}}
{{- define "onsale.roleEnv" -}}
{{- $secret := include "onsale.secret" .root -}}
{{- with .root.Values.redis }}
{{- if eq .mode "single" }}
- name: REDIS_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: REDIS_PASSWORD } }
- { name: REDIS_URL, value: "redis://:$(REDIS_PASSWORD)@{{ $.root.Release.Name }}-redis:6379" }
{{- else if eq .mode "url" }}
- name: REDIS_URL
  valueFrom: { secretKeyRef: { name: {{ .secret }}, key: {{ .key }} } }
{{- end }}
{{- end }}
{{- with .root.Values.rabbitmq }}
{{- if eq .mode "single" }}
- name: RABBITMQ_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: RABBITMQ_PASSWORD } }
- { name: AMQP_URL, value: "amqp://onsale:$(RABBITMQ_PASSWORD)@{{ $.root.Release.Name }}-rabbitmq:5672" }
{{- else if eq .mode "url" }}
- name: AMQP_URL
  valueFrom: { secretKeyRef: { name: {{ .secret }}, key: {{ .key }} } }
{{- end }}
{{- end }}
{{- include "onsale.anyRoleEnv" . }}
{{- end }}

{{/* What all roles of requests share. */}}
{{- define "onsale.anyRoleEnv" }}
- { name: LOG_LEVEL, value: {{ .root.Values.logLevel }} }
- { name: HOST, value: 0.0.0.0 }
- { name: DRAIN_GRACE_MS, value: {{ .drainGraceMs | int | quote }} }
- name: INTERNAL_TOKEN
  valueFrom: { secretKeyRef: { name: {{ include "onsale.secret" .root }}, key: INTERNAL_TOKEN } }
{{- with .root.Values.tracing.endpoint }}
- { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }} }
{{- with $.root.Values.tracing.samplerArg }}
- { name: OTEL_TRACES_SAMPLER_ARG, value: {{ . | quote }} }
{{- end }}
{{- end }}
{{- range $name, $value := .settings }}
- { name: {{ $name }}, value: {{ (kindIs "float64" $value | ternary (printf "%.0f" $value) (toString $value)) | quote }} }
{{- end }}
{{- end }}
