package huawei

import (
	"context"
	"net/http"
	"time"

	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/auth"
	"github.com/huaweicloud/huaweicloud-sdk-go-v3/core/def"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/providers/exchange"
)

// globalIAM serves all regions but Europe's.
const globalIAM = "https://iam.myhuaweicloud.com"

// The calls of IAM are described here, because its package in the SDK is large and has many that are not needed. Source:
// https://support.huaweicloud.com/intl/en-us/api-iam/iam_13_0605.html and /iam_06_0001.html.

type tokenRequest struct {
	Provider *string    `json:"X-Idp-Id"`
	Body     *tokenBody `json:"body"`
}

type tokenBody struct {
	Auth tokenAuth `json:"auth"`
}

type tokenAuth struct {
	IDToken struct {
		ID string `json:"id"`
	} `json:"id_token"`
	Scope struct {
		Project named `json:"project"`
	} `json:"scope"`
}

type named struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

type tokenAnswer struct {
	HttpStatusCode int     `json:"-"` //nolint:revive // the SDK sets it
	Subject        *string `json:"X-Subject-Token"`
	Token          struct {
		Expires time.Time `json:"expires_at"`
		Project named     `json:"project"`
	} `json:"token"`
}

// trade makes a token of an OpenID Connect provider that IAM knows one of IAM's for the project, who is named for errors.
// The project's id comes with it.
func (s *sessions) trade(ctx context.Context, who, idp, subject string) (bearer, time.Time, error) {
	body := tokenBody{}
	body.Auth.IDToken.ID = subject
	if body.Auth.Scope.Project.ID = s.project; s.project == "" {
		body.Auth.Scope.Project.Name = s.region // each region's own project has its name
	}
	answer := &tokenAnswer{}
	request := def.NewHttpRequestDefBuilder().WithMethod(http.MethodPost).WithPath("/v3.0/OS-AUTH/id-token/tokens").
		WithContentType("application/json;charset=UTF-8").WithResponse(answer).
		WithRequestField(def.NewFieldDef().WithName("Provider").WithJsonTag("X-Idp-Id").WithLocationType(def.Header)).
		WithRequestField(def.NewFieldDef().WithName("Body").WithLocationType(def.Body)).
		WithResponseField(def.NewFieldDef().WithName("Subject").WithJsonTag("X-Subject-Token").WithLocationType(def.Header)).Build()
	client, got := sdk(ctx, s.transport, s.iam, nobody{})
	act := "exchange the token of " + who + " at IAM (identity provider " + idp + ")"
	if _, err := client.Sync(&tokenRequest{&idp, &body}, request); err != nil {
		return bearer{}, time.Time{}, exchange.Refused(failed(ctx, act, got, err))
	}
	project := answer.Token.Project.ID
	if answer.Subject == nil || *answer.Subject == "" || !providers.ConsistsOf(project, 64, "-_") || s.project != "" && s.project != project {
		return bearer{}, time.Time{}, providers.Errorf(providers.Unavailable, "%s: the answer is malformed", act)
	}
	return bearer{*answer.Subject, project}, answer.Token.Expires, nil
}

type projectsRequest struct {
	Name *string `json:"name"`
}

type projectsAnswer struct {
	HttpStatusCode int     `json:"-"` //nolint:revive // the SDK sets it
	Projects       []named `json:"projects"`
}

// findProject asks for the id of the region's own project.
func (s *sessions) findProject(ctx context.Context, credential auth.ICredential) (string, error) {
	answer := &projectsAnswer{}
	request := def.NewHttpRequestDefBuilder().WithMethod(http.MethodGet).WithPath("/v3/projects").WithResponse(answer).
		WithRequestField(def.NewFieldDef().WithName("Name").WithJsonTag("name").WithLocationType(def.Query)).Build()
	client, got := sdk(ctx, s.transport, s.iam, credential)
	act := "ask IAM for the project of region " + s.region
	if _, err := client.Sync(&projectsRequest{&s.region}, request); err != nil {
		return "", exchange.Refused(failed(ctx, act, got, err))
	}
	if len(answer.Projects) != 1 || !providers.ConsistsOf(answer.Projects[0].ID, 64, "-_") {
		return "", providers.Errorf(providers.Invalid, "%s: %d projects: set projectId in the store's metadata", act, len(answer.Projects))
	}
	return answer.Projects[0].ID, nil
}
