package aws

import (
	"net/url"

	"github.com/keywell/keywell/pkg/providers"
)

// accountProperties are those of both drivers: whose credentials, and where.
func accountProperties() []providers.Property {
	return []providers.Property{
		{Name: "region", Aliases: []string{"awsRegion"}},
		{Name: "accessKey", Secret: true},
		{Name: "secretKey", Secret: true},
		{Name: "sessionToken", Secret: true},
		{Name: "assumeRoleArn"},
		{Name: "sessionName", Aliases: []string{"assumeRoleSessionName"}},
		{Name: "externalId"},
		{Name: "trustAnchorArn"},
		{Name: "trustProfileArn"},
		{Name: "certificateFile"},
		{Name: "privateKeyFile"},
		{Name: "podIdentity", Aliases: []string{"usePodIdentity"}},
		{Name: "podIdentityEndpoint"},
		{Name: "tokenAudience"},
		{Name: "endpoint"},
		{Name: "stsEndpoint"},
		{Name: "rolesAnywhereEndpoint"},
		{Name: "failoverRegion"},
		{Name: "failoverEndpoint"},
	}
}

// account is what those properties say.
type account struct {
	region, endpoint                 string
	failoverRegion, failoverEndpoint string
	accessKey, secretKey, session    string
	role, sessionName, externalID    string
	stsEndpoint, audience            string
	podIdentity                      bool // of EKS
	podIdentityEndpoint              string
	anywhere                         anywhere
}

const (
	defaultSession  = "keywell"
	defaultAudience = "sts.amazonaws.com"
)

// newAccount reads the properties and refuses combinations that can't work.
func newAccount(d *providers.Decoder, as providers.Identity) (account, error) {
	a := account{
		region: d.String("region", ""), endpoint: d.String("endpoint", ""),
		failoverRegion: d.String("failoverRegion", ""), failoverEndpoint: d.String("failoverEndpoint", ""),
		accessKey:   string(d.Secret("accessKey").Reveal()),
		secretKey:   string(d.Secret("secretKey").Reveal()),
		session:     string(d.Secret("sessionToken").Reveal()),
		role:        d.String("assumeRoleArn", ""),
		sessionName: d.String("sessionName", defaultSession), externalID: d.String("externalId", ""),
		stsEndpoint: d.String("stsEndpoint", ""), audience: d.String("tokenAudience", ""),
		podIdentity: d.Truthy("podIdentity", false), podIdentityEndpoint: d.String("podIdentityEndpoint", podIdentityEndpoint),
		anywhere: anywhere{
			trustAnchor: d.String("trustAnchorArn", ""), profile: d.String("trustProfileArn", ""),
			certificateFile: d.String("certificateFile", ""), keyFile: d.String("privateKeyFile", ""),
			endpoint: d.String("rolesAnywhereEndpoint", ""),
		},
	}
	if err := d.Err(); err != nil {
		return a, err
	}
	a.anywhere.role, a.anywhere.sessionName = a.role, a.sessionName
	switch {
	case a.audience != "":
	case a.podIdentity:
		a.audience = podIdentityAudience
	default:
		a.audience = defaultAudience
	}
	return a, a.check(as)
}

func (a account) check(as providers.Identity) error {
	if as == providers.AsPod && (a.accessKey != "" || a.anywhere.wanted()) {
		return providers.Errorf(providers.Invalid, "metadata identity: pod reads with the pod's own credentials: leave out accessKey, secretKey, trustAnchorArn and trustProfileArn")
	}
	if a.podIdentity && (as != providers.AsPod || a.role != "") {
		return providers.Errorf(providers.Invalid, "metadata podIdentity is EKS' way for pods to have roles: set identity: pod, and leave out assumeRoleArn; EKS knows the role")
	}
	if (a.accessKey == "") != (a.secretKey == "") {
		return providers.Errorf(providers.Invalid, "metadata accessKey and secretKey belong together: set both, or none for the default chain")
	}
	if a.failoverEndpoint != "" && a.failoverRegion == "" {
		return providers.Errorf(providers.Invalid, "metadata failoverEndpoint needs failoverRegion")
	}
	for name, endpoint := range map[string]string{
		"endpoint": a.endpoint, "failoverEndpoint": a.failoverEndpoint, "stsEndpoint": a.stsEndpoint,
		"rolesAnywhereEndpoint": a.anywhere.endpoint, "podIdentityEndpoint": a.podIdentityEndpoint,
	} {
		u, err := url.Parse(endpoint)
		if endpoint != "" && (err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
			return providers.Errorf(providers.Invalid, "metadata field %q is not a URL such as https://host", name)
		}
	}
	if a.anywhere.wanted() {
		return a.anywhere.check()
	}
	return nil
}
