package huawei

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth/provider"

	"github.com/keywell/keywell/pkg/providers"
)

// keys sign requests. They are plain because the SDK wants them so.
type keys struct{ id, secret, token string }

// found is credentials of the agent's own: keys, or a file with a token to exchange.
type found struct {
	keys           keys
	idp, tokenFile string
	project        string // empty: not said
	expires        time.Time
}

// lasting is how long credentials without an end are kept. If Huawei does not take them any more, they are sought again.
const lasting = 10 * 365 * 24 * time.Hour

// find seeks the agent's credentials where the SDK does: in the manifest, in the environment, in the profile file, and at
// the machine's metadata service.
func (s *sessions) find(ctx context.Context) (found, error) {
	forever := time.Now().Add(lasting)
	if s.keys != (keys{}) {
		return found{keys: s.keys, expires: forever}, nil
	}
	for _, place := range []provider.ICredentialProvider{provider.BasicCredentialEnvProvider(), provider.BasicCredentialProfileProvider()} {
		got, err := place.GetCredentials()
		if err != nil { // there are none, there
			continue
		}
		if c, ok := got.(*auth.BasicCredentials); ok {
			return found{keys{c.AK, c.SK, c.SecurityToken}, c.IdpId, c.IdTokenFile, c.ProjectId, forever}, nil
		}
	}
	return s.askMachine(ctx)
}

// The metadata service of Huawei's machines, which gives the keys of the agency that a machine has. Source:
// https://support.huaweicloud.com/intl/en-us/usermanual-ecs/ecs_03_0166.html, and the SDK.
const (
	machineURL = "http://169.254.169.254/"
	tokenPath  = "meta-data/latest/api/token"
	keysPath   = "openstack/latest/securitykey"
)

// askMachine asks the metadata service. The SDK does too, but not by its clients' connections, and without an end that we
// could set. A service that knows no tokens is asked without one, as in the SDK.
func (s *sessions) askMachine(ctx context.Context) (found, error) {
	const nothing = "no credentials: set accessKey and secretAccessKey, or give the machine an agency: %w"
	token, err := s.node.Token(ctx, tokenPath, "X-Metadata-Token-Ttl-Seconds")
	if err != nil {
		return found{}, providers.Errorf(providers.Unavailable, nothing, err)
	}
	header := http.Header{}
	if token != "" {
		header.Set("X-Metadata-Token", token)
	}
	body, err := s.node.Ask(ctx, http.MethodGet, keysPath, header)
	if err != nil {
		return found{}, providers.Errorf(providers.Unavailable, nothing, err)
	}
	var answer struct {
		Credential struct {
			Access, Secret, SecurityToken string
			Expires                       time.Time `json:"expires_at"`
		}
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Credential.Access == "" || answer.Credential.Secret == "" {
		return found{}, providers.Errorf(providers.Unavailable, "the machine's metadata service gave no usable keys")
	}
	c := answer.Credential
	return found{keys: keys{c.Access, c.Secret, c.SecurityToken}, expires: c.Expires}, nil
}
