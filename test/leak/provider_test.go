package leak_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keywell/keywell/pkg/providers/csiprovider/csiprovidertest"
	"github.com/keywell/keywell/pkg/providers/csiprovider/v1alpha1"
)

// serveTattler serves the provider "tattler" in a directory until the test ends: it tells the content of its files, and what
// the class has brought, in whatever way a class asks for.
func (w *world) serveTattler(t *testing.T, dir string) {
	t.Helper()
	provider, err := csiprovidertest.Serve(filepath.Join(dir, "tattler.sock"), w.tattle(w.plant("value of a provider")))
	if err != nil {
		t.Fatal(err)
	}
	w.provider = provider
	t.Cleanup(func() {
		if err := provider.Stop(); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
}

func (w *world) tattle(value string) csiprovidertest.Answer {
	return func(_ context.Context, attributes map[string]string) (*v1alpha1.MountResponse, error) {
		text := value + " " + attributes["parameter"]
		switch attributes["how"] {
		case "error":
			return nil, status.Error(codes.Unknown, text)
		case "refusal":
			return nil, status.Error(codes.PermissionDenied, text)
		case "code":
			return &v1alpha1.MountResponse{Error: &v1alpha1.Error{Code: text}}, nil
		case "path":
			return csiprovidertest.Files(text, map[string]string{"../../etc/passwd": text}), nil
		}
		return csiprovidertest.Files(text, map[string]string{"db/password": value}), nil
	}
}

var hows = map[string]string{
	"good": "", "error": "answers Mount with Unknown", "refusal": "answers Mount with PermissionDenied", "code": "not shown", "path": `starts with ".."`,
}

// populateClasses writes a class for each way of telling.
func (w *world) populateClasses(t *testing.T, dir string) {
	parameter := w.plant("parameter of a class")
	for how := range hows {
		write(t, dir, "resources/class-"+how+".yaml", fmt.Sprintf(`apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: %s, namespace: shop}
spec: {provider: tattler, parameters: {how: %[1]s, parameter: %[2]s}}
`, how, parameter))
	}
}

// testProvider reads the classes by the API and in volumes.
func (w *world) testProvider(t *testing.T) {
	token, value := string(w.planted["API token"]), string(w.planted["value of a provider"])
	w.contains(t, w.get("/v1.0/secrets/secretproviderclass:good/good", token), value) // the control
	for how, want := range hows {
		if how != "good" && how != "path" {
			w.expect(t, w.get("/v1.0/secrets/secretproviderclass:"+how+"/"+how, token), want)
		}
	}
	if !w.volumes {
		return
	}
	class := func(name string) map[string]string {
		return map[string]string{"secretProviderClass": name, "refreshInterval": "1s"}
	}
	if err := w.publish(t, "class", class("good")); err != nil {
		t.Fatal(err)
	}
	w.contains(t, string(w.read("v/class/db/password")), value) // the control
	for how, want := range hows {
		if how == "good" {
			continue
		}
		if how == "error" || how == "code" {
			want = "Unavailable"
		}
		if how == "refusal" {
			want = "PermissionDenied"
		}
		err := w.publish(t, "class-"+how, class(how))
		w.expect(t, strings.TrimSpace(fmt.Sprintf("%v %+v", err, err)), want)
	}
	rotated := w.plant("rotated value of a provider")
	w.provider.Answer(w.tattle(rotated))
	w.Until("the volume has the provider's new value", func() bool { return string(w.read("v/class/db/password")) == rotated })
}
