{{- define "keywell.selectorLabels" -}}
app.kubernetes.io/name: keywell
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "keywell.labels" -}}
{{ include "keywell.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "keywell.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "keywell.builtinStore" -}}
{{- if not (or .Values.disableBuiltinKubernetesSecretStore .Values.disableBuiltinK8sSecretStore) }}true{{ end -}}
{{- end }}

{{/* Fails on a store that can't work, or that would put a credential into the ConfigMap. No message quotes a value. */}}
{{- define "keywell.checkStores" -}}
{{- $names := list -}}
{{- range .Values.stores -}}
  {{- $store := .metadata.name -}}
  {{- if has $store $names -}}
    {{- fail (printf "stores: there are two stores %q" $store) -}}
  {{- end -}}
  {{- $names = append $names $store -}}
  {{- $secretStore := dig "auth" "secretStore" "" . | default "kubernetes" -}}
  {{- range .spec.metadata -}}
    {{- $value := toString (default "" .value) -}}
    {{- $credential := or
      (regexMatch "(?i)(token|password|passphrase|secret|credentials?|(access|secret|private|api)[-_]?key|(azure|spn)certificate)$" .name)
      (regexMatch "-----BEGIN [A-Z ]*PRIVATE KEY-----|://[^/@]*:[^/@]+@|^hv[sb]\\.|^eyJ[\\w-]+\\.eyJ" $value) -}}
    {{- if and $value $credential -}}
      {{- fail (printf "stores: %s: the value of %q looks like a credential, and a ConfigMap is no place for one. Put it into a Secret, list that in credentials, and write envRef instead of value" $store .name) -}}
    {{- end -}}
    {{- if and .secretKeyRef (eq $secretStore "kubernetes") -}}
      {{- fail (printf "stores: %s: the secretKeyRef of %q names a Kubernetes Secret, which the agent has no right to read. List the Secret in credentials, and write envRef instead of secretKeyRef" $store .name) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{/* Fails on a variable that would replace one of the agent's, or that a store may not refer to. */}}
{{- define "keywell.checkCredentials" -}}
{{- range $name, $from := .Values.credentials -}}
  {{- if not (regexMatch "^[A-Za-z_][A-Za-z0-9_]*$" $name) -}}
    {{- fail (printf "credentials: %q is no name of an environment variable" $name) -}}
  {{- end -}}
  {{- if regexMatch "(?i)^(DAPR_.*|APP_API_TOKEN|NAMESPACE|NODE_NAME|HOST_IP)$" $name -}}
    {{- fail (printf "credentials: %s has a meaning already; choose another name" $name) -}}
  {{- end -}}
{{- end -}}
{{- end }}

{{- define "keywell.tokensRule" -}}
# Tokens of pods to which the kubelet brings none. RBAC can't say "of pods of this node"; the agent asks for no others.
- apiGroups: [""]
  resources: [serviceaccounts/token]
  verbs: [create]
{{- end -}}
