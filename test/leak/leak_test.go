package leak_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	runtimev1pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/keywell/keywell/pkg/providers/csiprovider/csiprovidertest"
)

// world is an agent with a canary in every kind of secret, and what it has said to its callers.
type world struct {
	*agent
	planted  map[string]canary // kind of secret → what stands in it
	secrets  string            // content of the secrets file
	told     strings.Builder   // answers that must not hold a secret
	volumes  bool              // there are volumes, which need root
	plugin   *blabber
	provider *csiprovidertest.Provider
}

// TestNoSecretIsTold takes an agent through all that can happen to a secret and searches what it has said.
func TestNoSecretIsTold(t *testing.T) {
	w := &world{planted: map[string]canary{}, volumes: os.Geteuid() == 0}
	dir := home(t)
	w.serveBlabber(t, filepath.Join(dir, "plugins"))
	w.serveTattler(t, filepath.Join(dir, "plugins"))
	w.populate(t, dir)
	w.populateClasses(t, dir)
	w.check(t, dir)

	l := launch{
		args: []string{"--config", "config.yaml", "--audit-log", "audit", "--components-sockets", "plugins", "--provider-sockets", "plugins", "--csi-socket", "", "--max-volume-bytes", "65536"},
		env: []string{
			"GOTRACEBACK=crash", "DAPR_API_TOKEN=" + w.plant("API token"),
			"LEAK_PASSWORD=" + w.plant("environment variable"), "FOR_PREFIX=" + w.plant("environment variable of an envRef"),
		},
	}
	if w.volumes {
		l.args = append(l.args, "--csi-socket", filepath.Join(dir, "csi.sock"), "--target-root", filepath.Join(dir, "v"))
	}
	w.agent = start(t, dir, l)

	t.Run("HTTP", w.testHTTP)
	t.Run("gRPC", w.testGRPC)
	t.Run("volumes", w.testVolumes)
	t.Run("plugin", w.testPlugin)
	t.Run("provider", w.testProvider)
	t.Run("bad files", w.testBadFiles)
	t.Run("rotation", w.testRotation)
	t.Run("a closing policy", w.testRevoked)

	metrics := w.metrics()
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", w.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if end := w.Die(syscall.SIGQUIT); !end.Signaled() || end.CoreDump() {
		t.Errorf("SIGQUIT ended the agent with signaled=%t, core=%t", end.Signaled(), end.CoreDump())
	}
	for _, text := range []string{"goroutine 1 ", "level=DEBUG", "level=WARN", "level=ERROR"} {
		if !strings.Contains(string(w.read("log")), text) {
			t.Errorf("the log has no %q: this test no longer sees what it was made for", text)
		}
	}
	w.clean("answers", []byte(w.told.String()))
	w.clean("log", w.read("log"))
	w.clean("audit log", w.read("audit"))
	w.clean("metrics", metrics)
	w.clean("command line", cmdline)
	w.cleanState()
}

// plant returns a new secret text for a kind of secret, once for each.
func (w *world) plant(kind string) string {
	if _, again := w.planted[kind]; again {
		panic("planted twice: " + kind)
	}
	w.planted[kind] = newCanary()
	return string(w.planted[kind])
}

// clean fails the test if data holds a canary.
func (w *world) clean(what string, data []byte) {
	w.t.Helper()
	if len(data) == 0 {
		w.t.Errorf("%s: there is nothing to search", what)
	}
	for _, leak := range leaks(w.planted, data) {
		w.t.Errorf("%s: holds a secret: %s", what, leak)
	}
}

// cleanState searches what the agent keeps on disk, which is a record per volume.
func (w *world) cleanState() {
	records := 0
	err := filepath.WalkDir(w.path("state"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			records++
			var data []byte
			data, err = os.ReadFile(path)
			w.clean(path, data)
		}
		return err
	})
	if w.volumes && (err != nil || records == 0) {
		w.t.Errorf("%d records found: %v", records, err)
	}
}

// expect fails the test unless an answer holds each text, and keeps it for the search.
func (w *world) expect(t *testing.T, answer string, texts ...string) {
	t.Helper()
	w.told.WriteString(answer)
	w.contains(t, answer, texts...)
}

func (w *world) contains(t *testing.T, answer string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(answer, text) {
			t.Errorf("%q is not in the answer:\n%s", text, answer)
		}
	}
}

// writeSecrets writes the agent's secrets file.
func (w *world) writeSecrets(t *testing.T, dir string) {
	content, err := json.Marshal(map[string]any{
		"db":       map[string]string{"user": "app", "password": w.plant("value of a file")},
		"encoded":  map[string]string{"value": "!" + w.plant("value that is not base64")},
		"line":     map[string]string{"LINE": w.plant("value that no dotenv file can hold") + "\r"},
		"dashes":   map[string]string{"not-a-variable": w.plant("value of a field that is no variable")},
		"hostile":  map[string]string{"../../etc/passwd": w.plant("value of a field with a hostile name")},
		"large":    map[string]string{"value": strings.Repeat(w.plant("value that is too large"), 5000)},
		"internal": w.plant("value that no scope allows"),
		"setting":  w.plant("value that a reference takes for a duration"),
		"prefix":   w.plant("value that a reference takes for a prefix"),
		"plugin":   w.plant("setting of a plugin"),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.secrets = string(content)
	write(t, dir, "secrets.json", w.secrets)
}

// populate writes manifests, good and bad, and the secrets file.
func (w *world) populate(t *testing.T, dir string) {
	good := func(file, name, typ string, metadata ...string) {
		write(t, dir, "resources/"+file, component(name, typ, "file", metadata...))
	}
	good("a-file.yaml", "file", "local.file", "{name: secretsFile, value: secrets.json}", `{name: multiValued, value: "true"}`)
	good("b-env.yaml", "env", "local.env", "{name: prefix, value: LEAK_}")
	good("c-reference.yaml", "reference", "local.env", "{name: prefix, secretKeyRef: {name: prefix, key: prefix}}")
	good("d-environment.yaml", "environment", "local.env", "{name: prefix, envRef: FOR_PREFIX}")

	good("e-setting.yaml", "setting", "local.env", "{name: cacheTTL, secretKeyRef: {name: setting, key: setting}}")
	good("f-field.yaml", "field", "local.env", "{name: prefix, secretKeyRef: {name: db, key: nowhere}}")
	good("g-secret.yaml", "secret", "local.env", "{name: prefix, secretKeyRef: {name: nowhere, key: nowhere}}")
	for i, value := range []string{`"%s`, `*%s`, `@%s`, `!!int %s`, `!!binary %s`, `{%s`, `%%%s`, "`%s`", `"%s {podName}"`, `"\q%s"`, "[\t%s]", "%s: %[1]s: %[1]s"} {
		kind := fmt.Sprintf("value in a faulty manifest, %q", value)
		good(fmt.Sprintf("h-%02d.yaml", i), fmt.Sprintf("faulty-%02d", i), "local.env", "name: prefix\n    value: "+fmt.Sprintf(value, w.plant(kind)))
	}
	good("i-plain.yaml", "plain", "local.env",
		"{name: cacheTTL, value: "+w.plant("plain value of a setting")+"}", "{name: password, value: "+w.plant("plain value of an unknown name")+"}")

	good("j-blabs.yaml", "blabs", "blabber", "{name: setting, secretKeyRef: {name: plugin, key: plugin}}")
	good("k-blabs-early.yaml", "blabs-early", "blabber", "{name: setting, secretKeyRef: {name: plugin, key: plugin}}")

	w.writeSecrets(t, dir)
	write(t, dir, "config.yaml", "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nspec: {secrets: {scopes: [{storeName: file, deniedSecrets: [internal]}]}}\n")
}

// check runs agent check on the same manifests.
func (w *world) check(t *testing.T, dir string) {
	cmd := exec.Command(binary, "check", "--resources-path", "resources", "--config", "config.yaml", "--components-sockets", "plugins")
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Fatalf("agent check exits with %d: %v", code, err)
	}
	w.expect(t, string(out), "h-00.yaml", "h-11.yaml", "cacheTTL", `"password" is not known`)
}

// request is a request that must fail, and what its answer says.
type request struct{ name, path, token, want string }

func (w *world) testHTTP(t *testing.T) {
	token := string(w.planted["API token"])
	// The controls: here the canaries must be found.
	w.contains(t, w.get("/v1.0/secrets/file/db", token), string(w.planted["value of a file"]))
	w.contains(t, w.get("/v1.0/secrets/file/bulk", token), string(w.planted["value of a file"]), string(w.planted["value that is too large"]))
	w.contains(t, w.get("/v1.0/secrets/env/PASSWORD", token), string(w.planted["environment variable"]))

	for _, r := range []request{
		{"wrong token", "/v1.0/secrets/file/db", w.plant("wrong token"), "401"},
		{"no token", "/v1.0/secrets/file/db", "", "invalid api token"},
		{"denied", "/v1.0/secrets/file/internal", token, "ERR_PERMISSION_DENIED"},
		{"missing", "/v1.0/secrets/file/nowhere", token, "SECRET_NOT_FOUND"},
		{"version that the store has not", "/v1.0/secrets/file/db?metadata.version_id=7&metadata.namespace=x", token, "200"},
		{"hostile path", "/v1.0/secrets/file/..%2f..%2fsecrets.json", token, "SECRET_NOT_FOUND"},
		{"unknown store", "/v1.0/secrets/nowhere/db", token, "STORE_NOT_FOUND"},
		{"store with a bad setting", "/v1.0/secrets/setting/x", token, "STORE_CLOSED"},
		{"store with a failing reference", "/v1.0/secrets/field/x", token, "STORE_CLOSED"},
		{"nothing by that prefix", "/v1.0/secrets/reference/bulk", token, "{}"},
		{"nothing by that prefix either", "/v1.0/secrets/environment/bulk", token, "{}"},
		{"metadata", "/v1.0/metadata", token, "keywell.closedStore.setting"},
		{"no route", "/v1.0/state/x", token, "404"},
		{"watching what is denied", "/v1.0/secrets/file/internal?watch", token, "ERR_PERMISSION_DENIED"},
		{"waiting for too long", "/v1.0/secrets/file/db?wait=9h", token, "ERR_MALFORMED_REQUEST"},
		{"configuration that is denied", "/v1.0/configuration/file?key=internal", token, "ERR_PERMISSION_DENIED"},
		{"configuration updates", "/v1.0/configuration/file/subscribe?key=db", token, "ERR_APP_CHANNEL_NIL"},
	} {
		t.Run(r.name, func(t *testing.T) {
			answer := w.get(r.path, r.token)
			if r.name == "version that the store has not" { // it is dropped, and the secret told, as in Dapr
				w.contains(t, answer, r.want, string(w.planted["value of a file"]))
				return
			}
			w.expect(t, answer, r.want)
		})
	}
}

func (w *world) testGRPC(t *testing.T) {
	client := runtimev1pb.NewDaprClient(w.dial(t, "dapr-leak-grpc.socket"))
	for _, r := range []struct{ name, secret, token, want string }{
		{"wrong token", "db", w.plant("wrong token in gRPC"), "Unauthorized"},
		{"denied", "internal", string(w.planted["API token"]), "PermissionDenied"},
		{"missing", "nowhere", string(w.planted["API token"]), "failed getting secret"},
	} {
		t.Run(r.name, func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "dapr-api-token", r.token)
			_, err := client.GetSecret(ctx, &runtimev1pb.GetSecretRequest{StoreName: "file", Key: r.secret})
			w.expect(t, fmt.Sprintf("%v %+v", err, err), r.want)
		})
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "dapr-api-token", string(w.planted["API token"]))
	answer, err := client.GetBulkSecret(ctx, &runtimev1pb.GetBulkSecretRequest{StoreName: "file"})
	w.contains(t, fmt.Sprint(answer, err), string(w.planted["value of a file"]))
}

func (w *world) dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+w.path(socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// publish publishes a volume as the kubelet does, with the pod's token in both places where it may stand.
func (w *world) publish(t *testing.T, name string, attributes map[string]string) error {
	t.Helper()
	const tokensKey = "csi.storage.k8s.io/serviceAccount.tokens"
	attributes = maps.Clone(attributes)
	if attributes[tokensKey] == "" {
		attributes[tokensKey] = `{"vault": {"token": "` + w.plant("token of pod "+name) + `", "expirationTimestamp": "2099-01-01T00:00:00Z"}}`
	}
	_, err := csi.NewNodeClient(w.dial(t, "csi.sock")).NodePublishVolume(context.Background(), &csi.NodePublishVolumeRequest{
		VolumeId: name, TargetPath: w.path("v/" + name), Readonly: true, VolumeContext: attributes,
		Secrets: map[string]string{"other": w.plant("secret of the publish call of " + name)},
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
	})
	return err
}

func (w *world) testVolumes(t *testing.T) {
	if !w.volumes {
		t.Skip("mounting needs root")
	}
	if err := w.publish(t, "good", map[string]string{"store": "file", "secrets": "db"}); err != nil {
		t.Fatal(err)
	}
	w.contains(t, string(w.read("v/good/db/password")), string(w.planted["value of a file"])) // the control

	file := func(secrets string, more ...string) map[string]string {
		all := map[string]string{"store": "file", "secrets": secrets}
		for i := 0; i < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		return all
	}
	for name, v := range map[string]struct {
		attributes map[string]string
		want       string
	}{
		"wrong base64":            {file("[{name: encoded, encoding: base64}]"), "not base64"},
		"dotenv value":            {file("line", "format", "dotenv"), "can't be written"},
		"dotenv name":             {file("dashes", "format", "dotenv"), "is not the name of a variable"},
		"hostile field":           {file("hostile"), `starts with ".."`},
		"hostile path":            {file("[{name: db, path: ../../etc}]"), `starts with ".."`},
		"too large":               {file("large"), "too large"},
		"denied":                  {file("internal"), "PermissionDenied"},
		"missing":                 {file("db,nowhere"), "NotFound"},
		"missing field":           {file("[{name: db, fields: [nowhere]}]"), "NotFound"},
		"two fields in one file":  {file("db", "format", "raw"), "format raw"},
		"unknown store":           {map[string]string{"store": "nowhere", "secrets": "db"}, "PermissionDenied"},
		"closed store":            {map[string]string{"store": "setting", "secrets": "db"}, "not open"},
		"bad attributes":          {file("db", "uid", "minus", "color", "red"), "InvalidArgument"},
		"tokens that are no JSON": {file("db", "csi.storage.k8s.io/serviceAccount.tokens", "{"+w.plant("malformed pod token")), "is not a JSON object"},
	} {
		t.Run(name, func(t *testing.T) {
			err := w.publish(t, strings.ReplaceAll(name, " ", "-"), v.attributes)
			if err == nil {
				t.Fatal("the volume is published")
			}
			w.expect(t, err.Error(), v.want)
		})
	}
}

// testBadFiles breaks the secrets file in every way, each right where a secret stands.
func (w *world) testBadFiles(t *testing.T) {
	for i, content := range []string{
		`{"db": {"password": "%s`,
		`{"db": {"password": %s}}`,
		`{"db": {"password": "x"} %s}`,
		`{"db": "%s", "db": "x"}`,
		`{"a": {"b:c": "%s", "b": {"c": "x"}}}`,
		`{"db": "%s` + "\xff" + `"}`,
		`"%s"`,
		`{"db": "` + strings.Repeat("%[1]s", 700_000) + `"}`,
	} {
		w.write("secrets.json", fmt.Sprintf(content, w.plant("value in a bad file, "+strconv.Itoa(i))))
		w.untilLogged("secrets file is unusable", i+1)
	}
	w.contains(t, w.get("/v1.0/secrets/file/db", string(w.planted["API token"])), string(w.planted["value of a file"]))
}

func (w *world) testRotation(t *testing.T) {
	password := w.plant("rotated value")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "dapr-api-token", string(w.planted["API token"]))
	stream, err := runtimev1pb.NewDaprClient(w.dial(t, "dapr-leak-grpc.socket")).SubscribeConfiguration(ctx,
		&runtimev1pb.SubscribeConfigurationRequest{StoreName: "file", Keys: []string{"db"}})
	if err == nil {
		_, err = stream.Recv() // the subscription's id
	}
	if err != nil {
		t.Fatal(err)
	}
	w.write("secrets.json", strings.Replace(w.secrets, string(w.planted["value of a file"]), password, 1))
	w.Until("the API has the new value", func() bool {
		return strings.Contains(w.get("/v1.0/secrets/file/db", string(w.planted["API token"])), password)
	})
	update, err := stream.Recv()
	w.contains(t, fmt.Sprint(update, err), password) // the control: a subscriber is told
	if w.volumes {
		w.Until("the volume has the new value", func() bool { return string(w.read("v/good/db/password")) == password })
	}
}

func (w *world) testRevoked(t *testing.T) {
	w.write("config.yaml", "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nspec: {secrets: {scopes: [{storeName: file, defaultAccess: deny}]}}\n")
	w.Until("the API denies", func() bool {
		return strings.Contains(w.get("/v1.0/secrets/file/db", string(w.planted["API token"])), "ERR_PERMISSION_DENIED")
	})
	if w.volumes {
		w.untilLogged("volume is abnormal", 1)
	}
}

// TestMemoryIsOutOfReach shows that neither a crash nor another process of the same user gets at the agent's memory.
func TestMemoryIsOutOfReach(t *testing.T) {
	dir := home(t)
	write(t, dir, "resources/env.yaml", component("env", "local.env", "", "{name: prefix, value: LEAK_}"))
	var user *syscall.Credential
	if os.Geteuid() == 0 { // root may read everything, so be somebody else
		user = &syscall.Credential{Uid: 65534, Gid: 65534}
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir, 65534, 65534)); err != nil {
			t.Fatal(err)
		}
	}
	a := start(t, dir, launch{args: []string{"--csi-socket", "", "--audit-log", ""}, env: []string{"GOTRACEBACK=crash"}, user: user})

	if other := sleeper(t, user); !readable(other, "environ", user) || !readable(other, "maps", user) {
		t.Error("control: the memory of another process of the user can't be read either")
	}
	for _, file := range []string{"environ", "maps", "mem"} {
		if readable(a.PID(), file, user) {
			t.Errorf("/proc/PID/%s of the agent can be read by its user", file)
		}
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", a.PID()))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
		t.Errorf("core dumps are possible:\n%s", limits)
	}
	if end := a.Die(syscall.SIGABRT); !end.Signaled() || end.CoreDump() {
		t.Errorf("SIGABRT ended the agent with signaled=%t, core=%t", end.Signaled(), end.CoreDump())
	}
}

// sleeper starts a process of user that hides nothing, and returns its ID.
func sleeper(t *testing.T, user *syscall.Credential) int {
	t.Helper()
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// readable tells whether user can open a file of a process's directory in /proc.
func readable(pid int, file string, user *syscall.Credential) bool {
	cmd := exec.Command("sh", "-c", `exec 3<"$0"`, fmt.Sprintf("/proc/%d/%s", pid, file))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	return cmd.Run() == nil
}
