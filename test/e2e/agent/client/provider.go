package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers/csiprovider/csiprovidertest"
	"github.com/keywell/keywell/pkg/providers/csiprovider/v1alpha1"
)

// serveProvider serves a provider at a path until ctx ends: its one file says for whom it is, by what the provider was told
// and by the pod's token. A socket that one before has left there is replaced.
func serveProvider(ctx context.Context, path, word string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	provider, err := csiprovidertest.Serve(path, func(_ context.Context, attributes map[string]string) (*v1alpha1.MountResponse, error) {
		var tokens map[string]struct{ Token string }
		if err := json.Unmarshal([]byte(attributes["csi.storage.k8s.io/serviceAccount.tokens"]), &tokens); err != nil {
			return nil, status.Error(codes.InvalidArgument, "no tokens")
		}
		if len(tokens) != 1 || strings.Count(tokens["provider"].Token, ".") != 2 {
			return nil, status.Error(codes.InvalidArgument, "not the one token that a provider is given")
		}
		if attributes["object"] == "" {
			return nil, status.Error(codes.NotFound, "no object")
		}
		content := fmt.Sprintf("%s of %s/%s for %s, %s", attributes["object"], attributes["csi.storage.k8s.io/pod.namespace"],
			attributes["csi.storage.k8s.io/serviceAccount.name"], attributes["csi.storage.k8s.io/pod.name"], word)
		return csiprovidertest.Files(word, map[string]string{"db/password": content}), nil
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	return provider.Stop()
}
