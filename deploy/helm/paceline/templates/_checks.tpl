{{/* What cannot work is told here, all at once; types and unknown values by values.schema.json before. */}}
{{- define "paceline.checks" -}}
{{- $wrong := concat
      (include "paceline.checks.pods" . | fromJsonArray)
      (include "paceline.checks.callers" . | fromJsonArray)
      (include "paceline.checks.config" . | fromJsonArray) -}}
{{- if $wrong -}}
{{- fail (join "\n" (uniq $wrong)) -}}
{{- end -}}
{{- end -}}

{{- define "paceline.checks.pods" -}}
{{- $wrong := list -}}
{{- $replicas := int .Values.replicas -}}
{{- if lt $replicas 1 -}}
{{- $wrong = append $wrong (printf "replicas is %d; write 1 or more" $replicas) -}}
{{- else if and (not (kindIs "invalid" .Values.shares)) (lt (int .Values.shares) (int (include "paceline.leastShares" .))) -}}
{{- $wrong = append $wrong (printf "shares is %d, and %d replicas would exceed the limits together; write %s or more" (int .Values.shares) $replicas (include "paceline.leastShares" .)) -}}
{{- end -}}
{{- if lt (int .Values.drainSeconds) 1 -}}
{{- $wrong = append $wrong (printf "drainSeconds is %d; write 1 or more, as work in flight needs time to end" (int .Values.drainSeconds)) -}}
{{- end -}}
{{- range $name := list "preStopSeconds" "partingSeconds" -}}
{{- if lt (int (get $.Values $name)) 0 -}}
{{- $wrong = append $wrong (printf "%s is %d; write 0 or more" $name (int (get $.Values $name))) -}}
{{- end -}}
{{- end -}}
{{- if eq (int .Values.port) (int .Values.adminPort) -}}
{{- $wrong = append $wrong (printf "adminPort is the same as port, %d; choose another" (int .Values.port)) -}}
{{- end -}}
{{- if and .Values.networkPolicy.enabled (not .Values.networkPolicy.callers) -}}
{{- $wrong = append $wrong "networkPolicy.callers is empty, and nobody could call; name at least one peer" -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end -}}

{{- define "paceline.checks.callers" -}}
{{- $wrong := list -}}
{{- $apiKeys := .Values.apiKeys | default dict -}}
{{- if not $apiKeys.secret -}}
{{- $wrong = append $wrong "apiKeys.secret is empty; name the existing Secret that holds each caller's key" -}}
{{- end -}}
{{- if not $apiKeys.callers -}}
{{- $wrong = append $wrong "apiKeys.callers is empty, and the service never listens without keys; name at least one caller" -}}
{{- end -}}
{{- $names := list -}}
{{- range $apiKeys.callers -}}
{{- if has .name $names -}}
{{- $wrong = append $wrong (printf "apiKeys.callers names %s twice; give each caller its own name" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- if hasKey . "key" -}}
{{- $wrong = append $wrong (printf "apiKeys.callers: %s has its key in the values; put it into the Secret under %s" .name .name) -}}
{{- end -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end -}}

{{- define "paceline.checks.config" -}}
{{- $config := .Values.config -}}
{{- if kindIs "string" $config -}}
{{- toJson (list "config is text; write it as a map under config: in a values file, not with --set-file") -}}
{{- else if not $config -}}
{{- toJson (list "config is empty; declare the APIs to call under config.upstreams") -}}
{{- else if not (kindIs "map" $config) -}}
{{- toJson (list "config is not a map; write sections such as upstreams: under it") -}}
{{- else if not (kindIs "map" ($config.upstreams | default dict)) -}}
{{- toJson (list "config.upstreams is not a map; write each API's name with its settings below it") -}}
{{- else -}}
{{- $wrong := list -}}
{{- $set := dict "host" "it is always 0.0.0.0" "port" "set port" "admin_port" "set adminPort" "pre_stop" "set partingSeconds" "drain" "set drainSeconds" "api_keys" "set apiKeys" "hosts" "probes and scrapes come by the pod's address" -}}
{{- range $key := keys ($config.server | default dict) | sortAlpha -}}
{{- if hasKey $set $key -}}
{{- $wrong = append $wrong (printf "config.server.%s cannot be given: %s" $key (get $set $key)) -}}
{{- end -}}
{{- end -}}
{{- $mode := ($config.egress | default dict).mode | default "declared" -}}
{{- if ne (toString $mode) "declared" -}}
{{- $wrong = append $wrong (printf "config.egress.mode is %v; on Kubernetes it is always declared, so remove it and declare what is to be called" $mode) -}}
{{- end -}}
{{- if not $config.upstreams -}}
{{- $wrong = append $wrong "config.upstreams is empty, and nothing could be called; declare at least one API" -}}
{{- end -}}
{{- range $name, $upstream := $config.upstreams -}}
{{- $wrong = concat $wrong (include "paceline.checks.upstream" (dict "root" $ "at" (printf "config.upstreams.%s" $name) "upstream" $upstream) | fromJsonArray) -}}
{{- end -}}
{{- range $check := list "concurrency" "proxy" -}}
{{- $wrong = concat $wrong (include (printf "paceline.checks.%s" $check) (dict "root" $ "at" "config.defaults" "upstream" ($config.defaults | default dict)) | fromJsonArray) -}}
{{- end -}}
{{- $wrong = concat $wrong (include "paceline.checks.references" . | fromJsonArray) -}}
{{- toJson $wrong -}}
{{- end -}}
{{- end -}}

{{- define "paceline.checks.upstream" -}}
{{- $wrong := list -}}
{{- $at := .at -}}
{{- $policy := .root.Values.networkPolicy -}}
{{- if not (kindIs "map" .upstream) -}}
{{- $wrong = append $wrong (printf "%s is not a map; write its settings below it, at least base_url" $at) -}}
{{- else -}}
{{- $auth := .upstream.auth | default dict -}}
{{- range $place, $secret := dict "bearer" $auth.bearer "basic.password" ($auth.basic | default dict).password "header.value" ($auth.header | default dict).value -}}
{{- if and $secret (not (contains "${" (toString $secret))) -}}
{{- $wrong = append $wrong (printf "%s.auth.%s is a secret in plain text; put it into a Secret, name that in credentials, and write \"${file:/etc/paceline/credentials/NAME/KEY}\"" $at $place) -}}
{{- end -}}
{{- end -}}
{{- $wrong = concat $wrong (include "paceline.checks.concurrency" . | fromJsonArray) (include "paceline.checks.proxy" . | fromJsonArray) -}}
{{- if $policy.enabled -}}
{{- if .upstream.allow_private -}}
{{- if not $policy.privateUpstreams -}}
{{- $wrong = append $wrong (printf "%s is on a private address, which the NetworkPolicy closes; name it in networkPolicy.privateUpstreams" $at) -}}
{{- end -}}
{{- else -}}
{{- $port := regexFind ":[0-9]+$" (regexFind "^https?://[^/]*" (toString .upstream.base_url)) | trimPrefix ":" -}}
{{- if and $port (not (has (int $port) $policy.publicPorts)) (not (has (float64 $port) $policy.publicPorts)) -}}
{{- $wrong = append $wrong (printf "%s is on port %s, which the NetworkPolicy closes; add it to networkPolicy.publicPorts" $at $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end -}}

{{/* A limit of calls in flight is not divided below one, so that shares of a smaller one would exceed it together. */}}
{{- define "paceline.checks.concurrency" -}}
{{- $wrong := list -}}
{{- $shares := int (include "paceline.shares" .root) -}}
{{- $limit := (.upstream.concurrency | default dict).limit -}}
{{- if and $limit (lt (int $limit) $shares) -}}
{{- $wrong = append $wrong (printf "%s.concurrency.limit is %d and cannot be divided into %d shares; use fewer replicas, or a rate in its place" .at (int $limit) $shares) -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end -}}

{{- define "paceline.checks.proxy" -}}
{{- $wrong := list -}}
{{- $proxy := toString .upstream.proxy -}}
{{- if and (regexMatch "^[^/]*//[^/]*@" $proxy) (not (contains "${" $proxy)) -}}
{{- $wrong = append $wrong (printf "%s.proxy has a password in plain text; put its whole URL into a Secret, name that in credentials, and write \"${file:/etc/paceline/credentials/NAME/KEY}\"" .at) -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end -}}

{{/* `${file:...}` must lie in a mounted Secret, and `${env:...}` has nothing behind it. */}}
{{- define "paceline.checks.references" -}}
{{- $wrong := list -}}
{{- $text := toJson .Values.config -}}
{{- if regexMatch "\\$\\{env:" $text -}}
{{- $wrong = append $wrong "config refers to ${env:...}, and the pods have no such variables; mount a Secret by credentials and write \"${file:/etc/paceline/credentials/NAME/KEY}\"" -}}
{{- end -}}
{{- range $path := regexFindAll "/etc/paceline/credentials/[^/}\"]+" $text -1 -}}
{{- $name := base $path -}}
{{- if not (has $name $.Values.credentials) -}}
{{- $wrong = append $wrong (printf "config refers to the Secret %s, which is not mounted; add it to credentials" $name) -}}
{{- end -}}
{{- end -}}
{{- toJson $wrong -}}
{{- end -}}
