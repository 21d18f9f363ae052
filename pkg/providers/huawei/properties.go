package huawei

import (
	"net/url"

	"github.com/keywell/keywell/pkg/providers"
)

// Type is Dapr's component type.
const Type = "secretstores.huaweicloud.csms"

// properties lists Dapr's names, which are the first three, and ours.
func properties() []providers.Property {
	return []providers.Property{
		{Name: "region", Required: true},
		{Name: "accessKey"},
		{Name: "secretAccessKey", Secret: true},
		{Name: "securityToken", Secret: true},
		{Name: "projectId"},
		{Name: "endpoint"},
		{Name: "iamEndpoint"},
		{Name: "multipleKeyValuesPerSecret"},
		{Name: "nestedSeparator"},
		{Name: "identityProvider"},
		{Name: "tokenAudience"},
	}
}

// settings is what the properties say.
type settings struct {
	region, project string // project: its id; empty: that of the region
	csms, iam       string // URLs, without a path
	keys            keys   // zero: what the SDK's environment or the machine has
	idp, audience   string // of pods' tokens
	split           bool   // a value that is a JSON object is several fields
	separator       string // between the names of nested members; empty: they are not taken apart
}

func newSettings(p providers.Properties, as providers.Identity) (settings, error) {
	d := p.Decode(properties())
	s := settings{
		region: d.String("region", ""), project: d.String("projectId", ""),
		keys: keys{
			id: d.String("accessKey", ""), secret: string(d.Secret("secretAccessKey").Reveal()), token: string(d.Secret("securityToken").Reveal()),
		},
		idp: d.String("identityProvider", ""), audience: d.String("tokenAudience", ""),
		split: d.Truthy("multipleKeyValuesPerSecret", false), separator: d.String("nestedSeparator", ""),
	}
	csms, iam := d.URL("endpoint", "https://kms.cn-north-4.myhuaweicloud.com"), d.URL("iamEndpoint", globalIAM)
	if err := d.Err(); err != nil {
		return s, err
	}
	for name, id := range map[string]string{"region": s.region, "projectId": s.project, "identityProvider": s.idp} {
		if id != "" && !providers.ConsistsOf(id, 64, "-_") {
			return s, providers.Errorf(providers.Invalid, "metadata field %q is not one that there can be", name)
		}
	}
	s.csms, s.iam = "https://kms."+s.region+".myhuaweicloud.com", globalIAM
	for name, custom := range map[string]*url.URL{"endpoint": csms, "iamEndpoint": iam} {
		switch {
		case custom == nil:
			continue
		case custom.Scheme != "https": // tokens go there
			return s, providers.Errorf(providers.Invalid, "metadata field %q does not begin with https", name)
		case name == "endpoint":
			s.csms = "https://" + custom.Host
		default:
			s.iam = "https://" + custom.Host
		}
	}
	return s, s.check(as)
}

// check finds out whether the properties fit together.
func (s *settings) check(as providers.Identity) error {
	switch {
	case as == providers.AsPod && s.keys != keys{}:
		return providers.Errorf(providers.Invalid, "metadata identity: pod reads with the pod's own credentials: leave out accessKey and what belongs to it")
	case as == providers.AsPod && s.idp == "":
		return providers.Errorf(providers.Invalid, `metadata field "identityProvider" is required with identity: pod`)
	case as == providers.AsPod && s.audience == "":
		return providers.Errorf(providers.Invalid, `metadata field "tokenAudience" is required with identity: pod: the client ID that the identity provider has in IAM`)
	case s.keys.id == "" && s.keys != keys{}:
		return providers.Errorf(providers.Invalid, `metadata field "accessKey" is required beside secretAccessKey and securityToken`)
	case s.keys.id != "" && s.keys.secret == "":
		return providers.Errorf(providers.Invalid, `metadata field "secretAccessKey" is required beside accessKey`)
	}
	return nil
}
