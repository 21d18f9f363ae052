package gcp

import (
	"encoding/pem"
	"net/url"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
)

// Type is Dapr's component type.
const Type = "secretstores.gcp.secretmanager"

// properties lists Dapr's names, which are the members of a service-account key, and ours.
func properties() []providers.Property {
	return []providers.Property{
		{Name: "projectID", Aliases: []string{"project_id"}, Required: true},
		{Name: "type"},
		{Name: "privateKeyID", Aliases: []string{"private_key_id"}},
		{Name: "privateKey", Aliases: []string{"private_key"}, Secret: true},
		{Name: "clientEmail", Aliases: []string{"client_email"}},
		{Name: "clientID", Aliases: []string{"client_id"}},
		{Name: "authURI", Aliases: []string{"auth_uri"}},
		{Name: "tokenURI", Aliases: []string{"token_uri"}},
		{Name: "authProviderX509CertURL", Aliases: []string{"auth_provider_x509_cert_url"}},
		{Name: "clientX509CertURL", Aliases: []string{"client_x509_cert_url"}},
		{Name: "location"},
		{Name: "endpoint"},
		{Name: "bulkFullNames"},
		{Name: "workloadIdentityProvider"},
		{Name: "serviceAccountEmail"},
		{Name: "tokenAudience"},
		{Name: "stsEndpoint"},
		{Name: "iamCredentialsEndpoint"},
	}
}

// settings is what the properties say.
type settings struct {
	project, location string
	endpoint          string // HOST:PORT
	fullNames         bool
	key               map[string]string // a service-account key; nil: application default credentials
	pool              federation
}

// federation is how a pod's token becomes one of the cloud's.
type federation struct {
	provider      string // audience of the exchange
	audience      string // of the pod's token
	email         string // of the service account to be, for pods whose service account names none
	tokenURL, iam string
}

// scope is what tokens are for. What they allow is decided by IAM.
const scope = "https://www.googleapis.com/auth/cloud-platform"

func newSettings(p providers.Properties, as providers.Identity) (settings, error) {
	d := p.Decode(properties())
	s := settings{
		project: d.String("projectID", ""), location: d.String("location", ""), fullNames: d.Truthy("bulkFullNames", false),
		pool: federation{
			provider: d.String("workloadIdentityProvider", ""), email: d.String("serviceAccountEmail", ""),
			audience: d.String("tokenAudience", ""),
			tokenURL: d.String("stsEndpoint", "https://sts.googleapis.com") + "/v1/token",
			iam:      d.String("iamCredentialsEndpoint", "https://iamcredentials.googleapis.com"),
		},
	}
	endpoint := d.String("endpoint", "")
	if d.Secret("privateKeyID").Len() > 0 { // Dapr's sign that the manifest holds a key
		s.key = map[string]string{
			"type": d.String("type", ""), "project_id": s.project, "private_key_id": d.String("privateKeyID", ""),
			"private_key":  strings.ReplaceAll(string(d.Secret("privateKey").Reveal()), `\n`, "\n"),
			"client_email": d.String("clientEmail", ""), "client_id": d.String("clientID", ""),
			"auth_uri": d.String("authURI", "https://accounts.google.com/o/oauth2/auth"), "token_uri": d.String("tokenURI", "https://oauth2.googleapis.com/token"),
			"auth_provider_x509_cert_url": d.String("authProviderX509CertURL", ""), "client_x509_cert_url": d.String("clientX509CertURL", ""),
		}
	}
	if err := d.Err(); err != nil {
		return s, err
	}
	return s, s.check(endpoint, as)
}

func (s *settings) check(endpoint string, as providers.Identity) error {
	for name, value := range map[string]string{"projectID": s.project, "location": s.location} {
		if value != "" && !isID(value, "-:.") {
			return providers.Errorf(providers.Invalid, "metadata field %q is not an id such as my-project or europe-west1", name)
		}
	}
	if s.key != nil {
		for _, name := range []string{"type", "private_key", "client_email"} {
			if s.key[name] == "" {
				return providers.Errorf(providers.Invalid, "metadata field %q is required beside privateKeyID", name)
			}
		}
		if s.key["type"] != "service_account" {
			return providers.Errorf(providers.Invalid, `metadata field "type" is not service_account`)
		}
	}
	if s.endpoint = s.address(); endpoint != "" {
		u, err := url.Parse(endpoint)
		if err != nil || u.Scheme != "https" || u.Host == "" {
			return providers.Errorf(providers.Invalid, `metadata field "endpoint" is not a URL such as https://secretmanager.googleapis.com`)
		}
		if s.endpoint = u.Host; u.Port() == "" {
			s.endpoint += ":443"
		}
	}
	if as == providers.AsPod {
		return s.checkPool()
	}
	if block, _ := pem.Decode([]byte(s.key["private_key"])); block == nil && s.key != nil {
		return providers.Errorf(providers.Invalid, `metadata field "privateKey" is not a private key in PEM`)
	}
	return nil
}

// address returns Google's own. Source: https://cloud.google.com/secret-manager/regional-secrets/regional-secrets-overview.
func (s *settings) address() string {
	if s.location != "" {
		return "secretmanager." + s.location + ".rep.googleapis.com:443"
	}
	return "secretmanager.googleapis.com:443"
}

// checkPool finds out which audience a pod's token must have: a provider's default one, or a GKE cluster's pool.
func (s *settings) checkPool() error {
	if s.key != nil {
		return providers.Errorf(providers.Invalid, "metadata identity: pod reads with the pod's own credentials: leave out privateKeyID and what belongs to it")
	}
	p := &s.pool
	if rest, ok := strings.CutPrefix(p.provider, "identitynamespace:"); ok {
		pool, provider, ok := strings.Cut(rest, ":")
		if ok && pool != "" && provider != "" {
			p.audience = orElse(p.audience, pool)
			return nil
		}
	}
	if strings.HasPrefix(p.provider, "//iam.googleapis.com/projects/") {
		p.audience = orElse(p.audience, "https:"+p.provider)
		return nil
	}
	return providers.Errorf(providers.Invalid, `metadata field "workloadIdentityProvider" is required with identity: pod, as `+
		`//iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER or, on GKE, as `+
		`identitynamespace:PROJECT.svc.id.goog:https://container.googleapis.com/v1/projects/PROJECT/locations/LOCATION/clusters/CLUSTER`)
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// isID tells whether s is made of ASCII letters, digits and characters of others, at most 255.
func isID(s, others string) bool { return providers.ConsistsOf(s, 255, others) }
