{{- define "tally.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- /* The labels by which pods are selected; takes a dict of root and name. */ -}}
{{- define "tally.selector" -}}
app.kubernetes.io/name: tally
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "tally.labels" -}}
{{ include "tally.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "tally.secretEnv" -}}
{{- $secret := .Values.existingSecret -}}
- name: TALLY_ADMIN_KEY
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: admin-key } }
- name: TALLY_SERVICE_KEY
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: service-key } }
- name: DATABASE_URL
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: database-url } }
- name: REDIS_URL
  valueFrom: { secretKeyRef: { name: {{ $secret }}, key: redis-url } }
{{- end -}}

{{- define "tally.addressEnv" -}}
- name: USAGE_INGEST_URL
  value: http://{{ .Release.Name }}-usage-ingest:{{ (index .Values.services "usage-ingest").port }}
- name: METRICS_ENGINE_URL
  value: http://{{ .Release.Name }}-metrics-engine:{{ (index .Values.services "metrics-engine").port }}
- name: ANALYTICS_API_URL
  value: http://{{ .Release.Name }}-analytics-api:{{ (index .Values.services "analytics-api").port }}
{{- end -}}

{{- /* Settings and keys of the store of archives and exports; nothing where none is set. */ -}}
{{- define "tally.objectStoreEnv" -}}
{{- range $setting, $value := .Values.objectStore.settings }}
- { name: {{ $setting }}, value: {{ $value | quote }} }
{{- end }}
{{- with .Values.objectStore.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ . }}, key: AWS_ACCESS_KEY_ID } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ . }}, key: AWS_SECRET_ACCESS_KEY } }
{{- end }}
{{- end -}}

{{- /* Settings of all programs. */ -}}
{{- define "tally.settingsEnv" -}}
{{- range $setting, $value := .Values.settings }}
- { name: {{ $setting }}, value: {{ $value | quote }} }
{{- end }}
{{- end -}}

{{- define "tally.podSecurity" -}}
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{ end -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "tally.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end -}}

{{- define "tally.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* A Deployment with its budget and autoscaler. Takes a dict: root, name, program, port, part and settings. */ -}}
{{- define "tally.deployment" -}}
{{- $root := .root -}}
{{- $values := .root.Values -}}
{{- $fullName := printf "%s-%s" .root.Release.Name .name -}}
{{- $delay := .settings.SHUTDOWN_DELAY_MS | default "3000" | int -}}
{{- $deadline := .settings.SHUTDOWN_DEADLINE_MS | default "15000" | int -}}
{{- $stop := add $values.drainSeconds (div (add $delay $deadline) 1000) | int -}}
{{- if le (int $values.terminationGracePeriodSeconds) $stop -}}
{{- fail (printf "terminationGracePeriodSeconds must be more than %d: drainSeconds, SHUTDOWN_DELAY_MS and SHUTDOWN_DEADLINE_MS of %s together." $stop .name) -}}
{{- end -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $fullName }}
  labels:
    {{- include "tally.labels" . | nindent 4 }}
spec:
  {{- if not .part.autoscaling.enabled }}
  replicas: {{ .part.replicas }}
  {{- end }}
  strategy: { type: RollingUpdate, rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } }
  selector:
    matchLabels:
      {{- include "tally.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "tally.labels" . | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "tally.podSecurity" $root | nindent 6 }}
      terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "tally.selector" . | nindent 14 }}
      {{- include "tally.placement" $root | nindent 6 }}
      containers:
        - name: {{ .name }}
          image: {{ include "tally.image" $root }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          command: ["node", {{ .program | quote }}]
          {{- include "tally.containerSecurity" $root | nindent 10 }}
          ports:
            - { name: http, containerPort: {{ .port }} }
          env:
            {{- include "tally.secretEnv" $root | nindent 12 }}
            {{- include "tally.addressEnv" $root | nindent 12 }}
            - { name: PORT, value: {{ .port | quote }} }
            {{- range $setting, $value := .settings }}
            - { name: {{ $setting }}, value: {{ $value | quote }} }
            {{- end }}
            {{- if has .name (list "flusher" "usage-ingest") }}
            {{- include "tally.objectStoreEnv" $root | trim | nindent 12 }}
            {{- end }}
          startupProbe:
            httpGet: { path: /livez, port: http }
            periodSeconds: 2
            failureThreshold: 60
          livenessProbe:
            httpGet: { path: /livez, port: http }
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: { path: /readyz, port: http }
            periodSeconds: 5
            timeoutSeconds: 3
          lifecycle:
            preStop: { exec: { command: [sleep, {{ $values.drainSeconds | quote }}] } }
          resources:
            {{- toYaml .part.resources | nindent 12 }}
          volumeMounts:
            - { name: tmp, mountPath: /tmp }
            {{- with $values.volumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - { name: tmp, emptyDir: { sizeLimit: {{ $values.exportSpool }} } }
        {{- with $values.volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $fullName }}
  labels:
    {{- include "tally.labels" . | nindent 4 }}
spec:
  {{- toYaml $values.podDisruptionBudget | nindent 2 }}
  selector:
    matchLabels:
      {{- include "tally.selector" . | nindent 6 }}
{{- if .part.autoscaling.enabled }}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ $fullName }}
  labels:
    {{- include "tally.labels" . | nindent 4 }}
spec:
  scaleTargetRef: { apiVersion: apps/v1, kind: Deployment, name: {{ $fullName }} }
  minReplicas: {{ .part.autoscaling.minReplicas }}
  maxReplicas: {{ .part.autoscaling.maxReplicas }}
  metrics:
    - type: Resource
      resource: { name: cpu, target: { type: Utilization, averageUtilization: {{ .part.autoscaling.cpuPercent }} } }
    {{- if .part.autoscaling.lagSeconds }}
    - type: External
      external:
        metric: { name: tally_flush_lag_seconds }
        target: { type: Value, value: {{ .part.autoscaling.lagSeconds | quote }} }
    {{- end }}
{{- end }}
{{- end -}}
