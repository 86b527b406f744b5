{{/* The file that the pods read: `config`, completed with what belongs to the Deployment. */}}
{{- define "paceline.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $keys := list -}}
{{- range .Values.apiKeys.callers -}}
{{- $keys = append $keys (merge (dict "key" (printf "${file:/etc/paceline/keys/%s}" .name)) .) -}}
{{- end -}}
{{- $server := merge (dict
      "host" "0.0.0.0"
      "port" .Values.port
      "admin_port" .Values.adminPort
      "pre_stop" .Values.partingSeconds
      "drain" .Values.drainSeconds
      "api_keys" $keys) ($config.server | default dict) -}}
{{- $egress := merge (dict "mode" "declared") ($config.egress | default dict) -}}
{{- toYaml (merge (dict "server" $server "egress" $egress) $config) -}}
{{- end -}}

{{/* Into how many shares the declared limits are divided. */}}
{{- define "paceline.shares" -}}
{{- $least := int (include "paceline.leastShares" .) -}}
{{- int (.Values.shares | default $least) -}}
{{- end -}}

{{- define "paceline.leastShares" -}}
{{- $replicas := int .Values.replicas -}}
{{- if eq $replicas 1 -}}1{{- else -}}{{ add1 $replicas }}{{- end -}}
{{- end -}}

{{/* A pod is gone by then, or killed. What Paceline needs beside its own times is less. */}}
{{- define "paceline.graceSeconds" -}}
{{- add .Values.preStopSeconds .Values.partingSeconds .Values.drainSeconds 10 -}}
{{- end -}}
