package alibaba

import (
	"net/url"
	"os"
	"strings"

	"github.com/keywell/keywell/pkg/providers"
)

// Type is Dapr's component type.
const Type = "secretstores.alicloud.parameterstore"

// defaultAudience is what RRSA gives tokens for. Source:
// https://www.alibabacloud.com/help/en/ack/ack-managed-and-ack-dedicated/user-guide/use-rrsa-to-authorize-pods-to-access-different-cloud-services.
const defaultAudience = "sts.aliyuncs.com"

func properties() []providers.Property {
	return []providers.Property{
		{Name: "regionId", Required: true},
		{Name: "accessKeyId"},
		{Name: "accessKeySecret", Secret: true},
		{Name: "securityToken", Secret: true},
		{Name: "oidcProviderArn"},
		{Name: "roleArn"},
		{Name: "tokenAudience"},
		{Name: "endpoint"},
		{Name: "stsEndpoint"},
	}
}

func selectors() providers.Selectors { return providers.Selectors{Version: true} }

// settings are what a manifest says.
type settings struct {
	region        string
	given         keys // empty: none
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
		region:       d.String("regionId", ""),
		given:        keys{string(d.Secret("accessKeyId").Reveal()), string(d.Secret("accessKeySecret").Reveal()), string(d.Secret("securityToken").Reveal())},
		oidcProvider: d.String("oidcProviderArn", ""),
		role:         d.String("roleArn", ""),
		audience:     d.String("tokenAudience", defaultAudience),
		endpoint:     d.URL("endpoint", "https://oos.cn-hangzhou.aliyuncs.com"),
		sts:          d.URL("stsEndpoint", "https://sts.cn-hangzhou.aliyuncs.com"),
	}
	if err := d.Err(); err != nil {
		return s, err
	}
	return s, s.check(as)
}

func (s *settings) check(as providers.Identity) error {
	switch {
	case printsRequests(os.Getenv("DEBUG")):
		return providers.Errorf(providers.Invalid, "the agent's environment variable DEBUG makes Alibaba Cloud's SDK print each request with its tokens: leave dara and tea out of it")
	case !providers.ConsistsOf(s.region, 64, "-"):
		return providers.Errorf(providers.Invalid, `metadata field "regionId" is not a region such as cn-hangzhou`)
	case (s.given.id == "") != (s.given.key == ""), s.given.id == "" && s.given.token != "":
		return providers.Errorf(providers.Invalid, `metadata fields "accessKeyId" and "accessKeySecret" belong together, and "securityToken" to them`)
	case as != providers.AsPod:
		if s.oidcProvider != "" || s.role != "" {
			return providers.Errorf(providers.Invalid, `metadata fields "oidcProviderArn" and "roleArn" are for identity: pod`)
		}
		return nil
	case s.given.id != "":
		return providers.Errorf(providers.Invalid, "metadata identity: pod reads with the pod's own credentials: leave out accessKeyId and what belongs to it")
	case s.account() == "":
		return providers.Errorf(providers.Invalid, `metadata field "oidcProviderArn" is required with identity: pod, as acs:ram::ACCOUNT:oidc-provider/ack-rrsa-CLUSTER`)
	}
	return nil
}

// account returns the account that the cluster's OIDC provider belongs to; empty if what is set is no ARN of a provider.
func (s *settings) account() string {
	parts := strings.SplitN(s.oidcProvider, ":", 5)
	if len(parts) < 5 || parts[0] != "acs" || parts[1] != "ram" || !providers.ConsistsOf(parts[3], 64, "") || !strings.HasPrefix(parts[4], "oidc-provider/") {
		return ""
	}
	return parts[3]
}

// printsRequests tells whether the SDK prints what it sends, tokens and all, with this value of DEBUG: it looks when the
// process starts. Source: github.com/alibabacloud-go/debug, Init.
func printsRequests(debug string) bool {
	for part := range strings.SplitSeq(debug, ",") {
		if part == "dara" || part == "tea" {
			return true
		}
	}
	return false
}
