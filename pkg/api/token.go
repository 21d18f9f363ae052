package api

import (
	"context"
	"errors"
	"log/slog"

	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
)

// tokenHeader carries the API token, in both protocols. http.Header has it in its canonical form, which it would have
// to make for every request.
const (
	tokenHeader     = "dapr-api-token"
	httpTokenHeader = "Dapr-Api-Token"
)

// Why a caller is not let in, in the words of daprd's gRPC status details.
var (
	errTokenMissing  = errors.New("missing api token in request metadata")
	errTokenMismatch = errors.New("authentication error: api token mismatch")
)

// gate lets callers in.
type gate struct {
	token  secret.Value
	attest func(ctx context.Context, e Evidence) (scope.Identity, error)
	logger *slog.Logger
}

// admit returns who calls. The error is errTokenMissing or errTokenMismatch, whatever the evidence lacks.
func (g *gate) admit(ctx context.Context, e Evidence) (scope.Identity, error) {
	refused := errTokenMismatch
	if e.Token.Len() == 0 {
		refused = errTokenMissing
	}
	if g.token.Len() > 0 && !g.token.Equal(e.Token) {
		return scope.Identity{}, refused
	}
	id, err := g.attest(ctx, e)
	if err != nil {
		g.logger.LogAttrs(ctx, slog.LevelDebug, "caller is not attested", slog.Any("err", err))
		return scope.Identity{}, refused
	}
	return id, nil
}
