package tencent

import (
	"net/url"

	"github.com/keywell/keywell/pkg/providers"
)

// Type is Dapr's component type.
const Type = "secretstores.tencentcloud.ssm"

// defaultAudience is what TKE's webhook has tokens made for, and its OIDC provider takes. Source:
// https://www.tencentcloud.com/document/product/457/57285.
const defaultAudience = "sts.cloud.tencent.com"

func properties() []providers.Property {
	return []providers.Property{
		{Name: "secretId"},
		{Name: "secretKey", Secret: true},
		{Name: "token", Secret: true},
		{Name: "region"},
		{Name: "providerId"},
		{Name: "roleArn"},
		{Name: "tokenAudience"},
		{Name: "endpoint"},
		{Name: "stsEndpoint"},
	}
}

func selectors() providers.Selectors { return providers.Selectors{Version: true} }

// settings are what a manifest says.
type settings struct {
	given         keys // empty: none
	region        string
	oidcProvider  string
	role          string // for pods whose service account names none
	audience      string
	endpoint, sts *url.URL
}

// keys are what calls are signed with.
type keys struct{ id, key, token string }

func newSettings(p providers.Properties, as providers.Identity) (settings, error) {
	d := p.Decode(properties())
	s := settings{
		given:        keys{string(d.Secret("secretId").Reveal()), string(d.Secret("secretKey").Reveal()), string(d.Secret("token").Reveal())},
		region:       d.String("region", ""),
		oidcProvider: d.String("providerId", ""),
		role:         d.String("roleArn", ""),
		audience:     d.String("tokenAudience", defaultAudience),
		endpoint:     d.URL("endpoint", "https://ssm.tencentcloudapi.com"),
		sts:          d.URL("stsEndpoint", "https://sts.tencentcloudapi.com"),
	}
	if err := d.Err(); err != nil {
		return s, err
	}
	return s, s.check(as)
}

func (s *settings) check(as providers.Identity) error {
	switch {
	case (s.given.id == "") != (s.given.key == ""), s.given.id == "" && s.given.token != "":
		return providers.Errorf(providers.Invalid, `metadata fields "secretId" and "secretKey" belong together, and "token" to them`)
	case as != providers.AsPod:
		if s.oidcProvider != "" || s.role != "" {
			return providers.Errorf(providers.Invalid, `metadata fields "providerId" and "roleArn" are for identity: pod`)
		}
		return nil
	case s.given.id != "":
		return providers.Errorf(providers.Invalid, "metadata identity: pod reads with the pod's own credentials: leave out secretId and what belongs to it")
	case s.oidcProvider == "" || s.region == "":
		return providers.Errorf(providers.Invalid, `metadata fields "providerId", the cluster's OIDC provider such as cls-a1b2c3d4, and "region" are required with identity: pod`)
	}
	return nil
}
