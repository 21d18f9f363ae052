package volume

import (
	"context"
	"time"

	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/secret"
)

// AskLocalhost returns the UIDs of the pods with a volume that asks for listeners in the pod's network namespace. The
// kubelet publishes a pod's volumes before it has the namespace made.
func (s *Set) AskLocalhost() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	pods := map[string]bool{}
	for _, v := range s.volumes {
		if v.published && v.spec.Localhost {
			pods[v.record.Identity.PodUID] = true
		}
	}
	return pods
}

// Tokens returns the service-account tokens that the kubelet brings with the volumes of the pod with a UID. They are
// looked for when one is wanted; that the pod has no volume then is an error of Kind Invalid.
func (s *Set) Tokens(podUID string) providers.TokenSource { return podTokens{set: s, podUID: podUID} }

type podTokens struct {
	set    *Set
	podUID string
}

// Token returns the token that is good for longest.
func (p podTokens) Token(ctx context.Context, audience string) (secret.Value, time.Time, error) {
	var best secret.Value
	var until time.Time
	err := error(providers.Errorf(providers.Invalid, "%w", providers.ErrNoTokens))
	for _, tokens := range p.set.tokensOf(p.podUID) {
		token, expires, failed := tokens.Token(ctx, audience)
		if failed == nil && (best.Len() == 0 || expires.After(until)) {
			best, until = token, expires
		}
		err = failed
	}
	if best.Len() > 0 {
		return best, until, nil
	}
	return secret.Value{}, time.Time{}, err
}

func (s *Set) tokensOf(podUID string) (all []providers.TokenSource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.volumes {
		if v.published && podUID != "" && v.record.Identity.PodUID == podUID && v.tokens != nil {
			all = append(all, v.tokens)
		}
	}
	return all
}
