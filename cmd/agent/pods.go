package main

import (
	"context"
	"net"
	"time"

	"github.com/keywell/keywell/pkg/api"
	"github.com/keywell/keywell/pkg/cri"
	"github.com/keywell/keywell/pkg/localhost"
	"github.com/keywell/keywell/pkg/origin"
	"github.com/keywell/keywell/pkg/providers"
	"github.com/keywell/keywell/pkg/scope"
	"github.com/keywell/keywell/pkg/secret"
	"github.com/keywell/keywell/pkg/volume"
)

// podSockets are the sockets that belong to one pod each, by which the pod calls the API without a token.
type podSockets struct{ http, grpc, plugin *origin.Listener }

func newPodSockets() podSockets {
	return podSockets{http: origin.New(), grpc: origin.New(), plugin: origin.New()}
}

// listeners adds the sockets of pods to those of the node.
func (p podSockets) listeners(node api.Listeners) api.Listeners {
	node.HTTP, node.GRPC, node.Plugin = append(node.HTTP, p.http), append(node.GRPC, p.grpc), append(node.Plugin, p.plugin)
	return node
}

// serveVolume serves the sockets of a volume as calls of one pod, until the func is called that it returns.
func (p podSockets) serveVolume(id scope.Identity, sockets volume.Sockets) (stop func()) {
	from := origin.Addr{Way: origin.Socket, Identity: id}
	var sources []*origin.Source
	for l, socket := range map[*origin.Listener]net.Listener{p.http: sockets.HTTP, p.grpc: sockets.GRPC, p.plugin: sockets.Plugin} {
		if socket != nil {
			sources = append(sources, l.Add(from, socket))
		}
	}
	return func() { closeSources(sources) }
}

// serveLocalhost serves the listeners in a pod's network namespace, likewise.
func (p podSockets) serveLocalhost(id scope.Identity, http, grpc []net.Listener) (stop func()) {
	from := origin.Addr{Way: origin.Localhost, Identity: id}
	sources := []*origin.Source{p.http.Add(from, http...), p.grpc.Add(from, grpc...)}
	return func() { closeSources(sources) }
}

func closeSources(sources []*origin.Source) {
	for _, s := range sources {
		s.Close()
	}
}

// addLocalhost makes the parts that listen in pods.
func (a *agent) addLocalhost() error {
	var err error
	a.runtime, err = cri.New(cri.Options{
		Socket: a.flags.kubernetes.runtime, Changed: a.podsChanged, Logger: a.log, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	a.localhost, err = localhost.New(localhost.Options{
		Runtime: a.runtime, Wishes: a.wishes, Serve: a.pods.serveLocalhost, Refused: a.cluster.refuse, Logger: a.log, Registerer: a.registry,
	})
	return err
}

// wishes returns which pods of this node are to have listeners.
func (a *agent) wishes() map[string]localhost.Wish {
	var volumes map[string]bool
	if a.volumes != nil {
		volumes = a.volumes.AskLocalhost()
	}
	wishes := map[string]localhost.Wish{}
	for _, p := range a.cluster.pods.All() {
		wishes[p.UID] = a.flags.kubernetes.localhost.Wish(localhost.Pod{Annotation: p.API(), Volume: volumes[p.UID], Sidecar: p.HasSidecar()})
	}
	return wishes
}

// standalone returns who calls an agent that serves one application: that, or whose volume the call came in by.
func standalone(caller scope.Identity, e api.Evidence) scope.Identity {
	if from, ok := e.Peer.(*origin.Addr); ok {
		return from.Identity
	}
	return caller
}

// tokens returns the tokens of a pod that calls the API: those in its volumes or, if it has none there, made for it.
func (a *agent) tokens(id scope.Identity) providers.TokenSource {
	if id.PodUID == "" {
		return nil
	}
	var all firstToken
	if a.volumes != nil {
		all = append(all, a.volumes.Tokens(id.PodUID))
	}
	if made := a.requestedTokens(id); made != nil {
		all = append(all, made)
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// requestedTokens returns tokens that are made for a pod, nil if the agent is not to make any.
func (a *agent) requestedTokens(id scope.Identity) providers.TokenSource {
	if a.cluster == nil || a.cluster.tokens == nil {
		return nil
	}
	return a.cluster.tokens.Tokens(id)
}

// firstToken has the tokens of the first source that has one.
type firstToken []providers.TokenSource

// Token returns the error of the last source if none has a token.
func (sources firstToken) Token(ctx context.Context, audience string) (token secret.Value, expires time.Time, err error) {
	for _, s := range sources {
		if token, expires, err = s.Token(ctx, audience); err == nil {
			break
		}
	}
	return token, expires, err
}
