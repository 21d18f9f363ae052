package aws

import (
	"strings"

	"github.com/keywell/keywell/pkg/providers"
)

// cutARN returns what follows arn:PARTITION:SERVICE:REGION:ACCOUNT: in s, if s begins like that.
func cutARN(s, service string) (resource string, ok bool) {
	parts := strings.SplitN(s, ":", 6)
	if len(parts) < 6 || parts[0] != "arn" || parts[2] != service || !providers.ConsistsOf(parts[4], 12, "") {
		return "", false
	}
	return parts[5], providers.ConsistsOf(parts[1], 20, "-") && providers.ConsistsOf(parts[3], 30, "-")
}

// isSecretName tells whether a secret can have the name, or the ARN, whole or without its suffix. Source: CreateSecret,
// Name; GetSecretValue, SecretId.
func isSecretName(s string) bool {
	const others = "/_+=.@-"
	if resource, ok := cutARN(s, "secretsmanager"); ok {
		name, ok := strings.CutPrefix(resource, "secret:")
		return ok && providers.ConsistsOf(name, 512+len("-AbCdEf"), others)
	}
	return providers.ConsistsOf(s, 512, others)
}

// isParameterName tells whether a parameter can have the name, or the ARN. Neither may end with a colon and a version:
// that would be another version than the policy was asked about. Source: PutParameter, Name; GetParameter, Name.
func isParameterName(s string) bool {
	const most, others = 1011, "_./-"
	if resource, ok := cutARN(s, "ssm"); ok {
		name, ok := strings.CutPrefix(resource, "parameter/")
		return ok && providers.ConsistsOf(name, most, others)
	}
	return providers.ConsistsOf(s, most, others)
}

// isParameterVersion tells whether s can be the number or the label of a version. Source: LabelParameterVersion, Labels.
func isParameterVersion(s string) bool { return providers.ConsistsOf(s, 100, "_.-") }
