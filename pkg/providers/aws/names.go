package aws

import "strings"

// consistsOf tells whether s is one to most ASCII letters, digits and characters of others.
func consistsOf(s string, most int, others string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && strings.IndexByte(others, c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= most
}

// cutARN returns what follows arn:PARTITION:SERVICE:REGION:ACCOUNT: in s, if s begins like that.
func cutARN(s, service string) (resource string, ok bool) {
	parts := strings.SplitN(s, ":", 6)
	if len(parts) < 6 || parts[0] != "arn" || parts[2] != service || !consistsOf(parts[4], 12, "") {
		return "", false
	}
	return parts[5], consistsOf(parts[1], 20, "-") && consistsOf(parts[3], 30, "-")
}

// isSecretName tells whether a secret can have the name, or the ARN, whole or without its suffix. Source: CreateSecret,
// Name; GetSecretValue, SecretId.
func isSecretName(s string) bool {
	const others = "/_+=.@-"
	if resource, ok := cutARN(s, "secretsmanager"); ok {
		name, ok := strings.CutPrefix(resource, "secret:")
		return ok && consistsOf(name, 512+len("-AbCdEf"), others)
	}
	return consistsOf(s, 512, others)
}

// isParameterName tells whether a parameter can have the name, or the ARN. Neither may end with a colon and a version:
// that would be another version than the policy was asked about. Source: PutParameter, Name; GetParameter, Name.
func isParameterName(s string) bool {
	const most, others = 1011, "_./-"
	if resource, ok := cutARN(s, "ssm"); ok {
		name, ok := strings.CutPrefix(resource, "parameter/")
		return ok && consistsOf(name, most, others)
	}
	return consistsOf(s, most, others)
}

// isParameterVersion tells whether s can be the number or the label of a version. Source: LabelParameterVersion, Labels.
func isParameterVersion(s string) bool { return consistsOf(s, 100, "_.-") }
