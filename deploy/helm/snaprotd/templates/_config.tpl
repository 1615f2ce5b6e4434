{{- /* "yes" where the ledger is on a database server, which replicas share; else empty. */}}
{{- define "snaprotd.shared" -}}
{{- if hasPrefix "postgresql://" (toString (fromYaml .Values.config).state) -}}yes{{- end -}}
{{- end }}

{{- /* The configuration as it was given. Fails where it does not fit the pod; all else `snaprotd check` tells. */}}
{{- define "snaprotd.config" -}}
{{- $config := fromYaml .Values.config -}}
{{- with $config.Error -}}
{{- fail (printf "config: this is no YAML mapping: %s" .) -}}
{{- end -}}
{{- if not (has $config.listen (list "0.0.0.0:9877" "[::]:9877")) -}}
{{- fail "config: write `listen: 0.0.0.0:9877`, or the probes and Prometheus cannot reach snaprotd" -}}
{{- end -}}
{{- if not (or (hasPrefix "/var/lib/snaprotd/" (toString $config.state)) (hasPrefix "postgresql://" (toString $config.state))) -}}
{{- fail "config: write `state: /var/lib/snaprotd/state.db`, for that is where the volume is, or postgresql://..." -}}
{{- end -}}
{{- if and (gt (int .Values.replicas) 1) (not (include "snaprotd.shared" .)) -}}
{{- fail "replicas: more than one needs a ledger that they share: `state: postgresql://...` in config" -}}
{{- end -}}
{{- if and (hasPrefix "/run/secrets/snaprotd-database/" (toString $config.state_password_file)) (not .Values.databaseSecret.name) -}}
{{- fail "databaseSecret.name: name the Secret that state_password_file in config is in" -}}
{{- end -}}
{{- if (default dict $config.api).token_file -}}
{{- fail "config: leave out api.token_file: the token comes from tokenSecret" -}}
{{- end -}}
{{- $drain := toString (default "10m" $config.drain_timeout) -}}
{{- $unit := get (dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 "d" 86400.0) (regexFind "[a-z]+$" $drain) -}}
{{- if le (float64 .Values.terminationGracePeriodSeconds) (mulf (float64 (regexFind "^[0-9.]+" $drain)) (float64 $unit)) -}}
{{- fail (printf "terminationGracePeriodSeconds must be above drain_timeout, which is %s in config" $drain) -}}
{{- end -}}
{{ .Values.config }}
{{- end }}
