package huawei

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/connect"
	"github.com/keywell/keywell/pkg/providers/exchange"
)

// session is what reads of one identity are made with, and what is known of its rights.
type session struct {
	credential auth.ICredential
	noVersions atomic.Bool // to ask for versions was refused: not tried again before the session is renewed
}

// sessions makes them: one for the agent, or one for each service account.
type sessions struct {
	settings
	transport *http.Transport
	node      connect.Node
	cache     *exchange.Cache[*session]
}

func newSessions(s settings, as providers.Identity, dial connect.Dialer) *sessions {
	all := &sessions{settings: s, transport: connect.Transport(dial), node: connect.NewNode(dial, machineURL)}
	if as == providers.AsPod {
		all.cache = exchange.New(all.loginPod)
	} else {
		all.cache = exchange.NewShared(all.loginAgent)
	}
	return all
}

// loginPod exchanges the token of q's pod. Who it is in the cloud, IAM finds by the identity provider's conversion rules.
func (s *sessions) loginPod(ctx context.Context, q providers.Query) (*session, time.Time, error) {
	subject, err := exchange.Token(ctx, q, s.audience)
	if err != nil {
		return nil, time.Time{}, err
	}
	token, expires, err := s.trade(ctx, "service account "+q.Caller.Namespace+"/"+q.Caller.ServiceAccount, s.idp, subject)
	return &session{credential: token}, expires, err
}

// loginAgent finds the agent's credentials, and the project for which they are.
func (s *sessions) loginAgent(ctx context.Context, _ providers.Query) (*session, time.Time, error) {
	found, err := s.find(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	if found.tokenFile != "" {
		subject, err := providers.ReadCredential("HUAWEICLOUD_SDK_ID_TOKEN_FILE", found.tokenFile)
		if err != nil {
			return nil, time.Time{}, err
		}
		token, expires, err := s.trade(ctx, "the agent", found.idp, string(subject.Reveal()))
		return &session{credential: token}, expires, err
	}
	credential := &auth.BasicCredentials{
		BaseCredentials: auth.BaseCredentials{AK: found.keys.id, SK: found.keys.secret, SecurityToken: found.keys.token}, ProjectId: s.project,
	}
	if credential.ProjectId == "" {
		credential.ProjectId = found.project
	}
	if credential.ProjectId == "" {
		credential.ProjectId, err = s.findProject(ctx, credential)
	}
	return &session{credential: credential}, found.expires, err
}
