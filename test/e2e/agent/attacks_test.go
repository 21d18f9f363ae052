package agent_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/keywell/keywell/test/e2e/cluster"
)

// thief is a pod that may read nothing, beside one that may. A privileged pod, a pod in the node's process namespace and
// one that mounts the node's files as root are the node's equals, and no thieves.
type thief struct {
	name     string
	security string // securityContext of its containers
	host     bool   // it is in the node's network
	files    bool   // it mounts the kubelet's directory of pods
}

func (h thief) pod() pod { return pod{namespace: "attacked", name: h.name} }

func (h thief) manifest() string {
	files, mount := "emptyDir: {}", ""
	if h.files {
		files = "hostPath: {path: /var/lib/kubelet/pods}"
	}
	container := func(name, more string) string {
		return fmt.Sprintf("{name: %s, imagePullPolicy: Never, %s, securityContext: {%s}, volumeMounts: [{name: secrets, mountPath: /secrets, readOnly: true}, {name: own, mountPath: /own}, {name: node, mountPath: /node}%s]}",
			name, more, h.security, mount)
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: attacked, annotations: %s}
spec:
  serviceAccountName: thief
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  hostNetwork: %t
  volumes:
  - {name: secrets, csi: {driver: csi.keywell.dev, readOnly: true, volumeAttributes: {api: "socket, localhost"}}}
  - {name: own, emptyDir: {}}
  - {name: node, %s}
  containers:
  - %s
  - %s
`, h.name, toJSON(asksLocalhost), h.host, files,
		container("main", fmt.Sprintf("image: %q, args: [wait]", clientImage)),
		container("shell", fmt.Sprintf(`image: %q, command: [sleep, "3600"]`, cluster.BusyboxImage)))
}

// prepares has the thief's shell try to bring the victim's socket into its own reach. All of it fails, or leads nowhere.
func (h thief) prepares(t *testing.T, socket string) {
	t.Helper()
	out := kubectl(t, "exec", "--namespace", "attacked", h.name, "-c", "shell", "--", "sh", "-c", fmt.Sprintf(`
		ln -s %[1]s /own/link.sock
		ln -s /proc/1/root%[1]s /own/proc.sock
		ln %[1]s /own/hard.sock && echo linked
		ln /node/%[2]s /own/hard.sock && echo linked
		cp -a %[1]s /own/copy.sock && echo copied
		touch /own/bind.sock && mount --bind %[1]s /own/bind.sock && echo bound
		mount --bind /node/%[2]s /own/bind.sock && echo bound
		nsenter -t 1 -m true && echo entered
		exit 0`, socket, strings.TrimPrefix(socket, "/var/lib/kubelet/pods/")))
	for _, done := range []string{"linked", "copied", "bound"} {
		if strings.Contains(out, done) {
			t.Errorf("the thief's shell has %s the socket: %s", done, out)
		}
	}
}

// steals has the thief try every target, and fails the test where one says anything but what it should.
func (h thief) steals(t *testing.T, v stolen, targets []attack) {
	t.Helper()
	args := []string{"exec", "--namespace", "attacked", h.name, "-c", "main", "--", "/client", "steal", secretPath, "app.attacked", v.address, v.token}
	for _, a := range targets {
		args = append(args, a.target)
	}
	out := kubectl(t, args...)
	if strings.Contains(out, "from a file") {
		t.Errorf("%s has the secret:\n%s", h.name, out)
	}
	for _, a := range targets {
		found := 0
		for line := range strings.Lines(out) {
			rest, ok := strings.CutPrefix(line, a.target+" ")
			if !ok {
				continue
			}
			found++
			if !a.says.MatchString(rest) {
				t.Errorf("%s: %s, want %s", h.name, line, a.says)
			}
		}
		if found < 3 {
			t.Errorf("%s: %d attempts at %s:\n%s", h.name, found, a.target, out)
		}
	}
}

// attack is a target of client steal and what it has to say.
type attack struct {
	target string
	says   *regexp.Regexp
}

// stolen is what a thief knows of its victim.
type stolen struct{ address, token, socket string }

// What targets say.
var (
	nobody    = regexp.MustCompile(`connection refused`)
	stranger  = regexp.MustCompile(`: 40[13] `)
	noSuch    = regexp.MustCompile(`no such file`)
	forbidden = regexp.MustCompile(`permission denied`)
	lost      = regexp.MustCompile(`deadline exceeded|timeout|refused|unreachable`)
)

// TestAttacks has pods try to read what another pod of their namespace may read, by each of the three ways, and a pod
// that takes the name of one that is gone.
func TestAttacks(t *testing.T) {
	putVault(t)
	install(t, withVault().with("localhost", values{"enabled": true, "pods": "asked"}).with("policies", []values{{
		"apiVersion": "keywell.dev/v1alpha1", "kind": "AccessPolicy", "metadata": values{"name": "attacks"},
		"spec": values{"rules": []values{{"subjects": []values{{"namespace": "attacked", "serviceAccount": "app"}}, "stores": []string{vault}, "allow": []string{"db"}}}},
	}}))
	ns := newNamespace(t, "attacked")
	victim := caller{namespace: ns, name: "app", annotations: asksLocalhost, attributes: map[string]string{"api": "socket"}}
	const user = "runAsUser: 1000, runAsGroup: 1000"
	ordinary := thief{name: "ordinary"}
	admin := thief{name: "admin", security: "capabilities: {add: [NET_ADMIN, NET_RAW]}"}
	host := thief{name: "host", host: true, security: "capabilities: {add: [NET_ADMIN, NET_RAW]}"}
	reader1000 := thief{name: "reader", files: true, security: user}
	thieves := []thief{ordinary, admin, host, reader1000}
	manifest := reader(ns, "app") + reader(ns, "thief") + victim.manifest()
	for _, h := range thieves {
		manifest += h.manifest()
	}
	apply(t, manifest)
	victim.pod().waitReady(t)
	for _, h := range thieves {
		h.pod().waitReady(t)
	}
	victim.answers(t)
	for _, target := range []string{localhost, "unix:/secrets/http.sock"} {
		if out := victim.call(t, "steal", secretPath, "", "", "", target); !strings.Contains(out, "from a file") {
			t.Fatalf("the victim itself gets nothing, so that thieves prove nothing: %s", out)
		}
	}
	token := func(args ...string) string {
		return strings.TrimSpace(kubectl(t, append([]string{"create", "token", "app", "--namespace", ns}, args...)...))
	}
	known := stolen{
		address: victim.address(t),
		token:   token("--audience", "somebody-else", "--bound-object-kind", "Pod", "--bound-object-name", "app"),
		socket:  strings.TrimPrefix(victim.pod().directory(t), fmt.Sprintf("/proc/%d/root", node.PID())) + "/http.sock",
	}
	if !strings.HasPrefix(known.socket, "/var/lib/kubelet/pods/") {
		t.Fatalf("the victim's socket is %s", known.socket)
	}
	inFiles := "unix:/node" + strings.TrimPrefix(known.socket, "/var/lib/kubelet/pods")
	common := []attack{
		{"http://" + known.address + ":3500", nobody},
		{"http://" + known.address + ":50001", nobody},
		{"http://" + cluster.NodeIP + ":3500", stranger}, // with no token, or one for another audience
		{"unix:/secrets/http.sock", stranger},            // the thief's own
		{"unix:/proc/[0-9]*/root/secrets/http.sock", stranger},
		{"unix:" + known.socket, noSuch},
		{"unix:@/secrets/http.sock", nobody},
		{"unix:@http.sock", nobody},
		{"unix:/own/link.sock", noSuch},
		{"unix:/own/proc.sock", noSuch},
		{"unix:/own/hard.sock", noSuch},
		{"unix:/own/copy.sock", noSuch},
		{"unix:/own/bind.sock", nobody}, // an empty file
	}
	own := []attack{{"http://127.0.0.1:3500", stranger}, {"http://[::1]:3500", stranger}}
	for _, test := range []struct {
		thief
		more []attack
	}{
		{ordinary, append(own, attack{inFiles, noSuch})},
		{admin, append(own, attack{inFiles, noSuch})},
		{host, []attack{{"http://127.0.0.1:3500", nobody}, {"http://[::1]:3500", nobody}, {inFiles, noSuch}}},
		{reader1000, append(own, attack{inFiles, forbidden})},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.prepares(t, known.socket)
			test.steals(t, known, append(test.more, common...))
		})
	}
	t.Run("the victim's own token, elsewhere than at the node's address", func(t *testing.T) {
		live := known
		live.token = token("--audience", "keywell", "--bound-object-kind", "Pod", "--bound-object-name", "app")
		ordinary.steals(t, live, append(own, attack{"unix:/secrets/http.sock", stranger}))
	})
	t.Run("a token of the victim's service account that is no pod's", func(t *testing.T) {
		loose := known
		loose.token = token("--audience", "keywell")
		ordinary.steals(t, loose, []attack{{"http://" + cluster.NodeIP + ":3500", stranger}})
	})
	t.Run("NET_ADMIN sends 127.0.0.1 to the node, and takes the victim's address", func(t *testing.T) {
		kubectl(t, "exec", "--namespace", ns, "admin", "-c", "shell", "--", "sh", "-c", `set -e
			gateway=$(ip route | sed -n 's/^default via \([^ ]*\) .*/\1/p')
			ip address add `+known.address+`/32 dev lo
			ip address del 127.0.0.1/8 dev lo
			ip route add 127.0.0.1 via $gateway`)
		admin.steals(t, known, []attack{{"http://127.0.0.1:3500", lost}, {"http://" + known.address + ":3500", nobody}})
	})
	t.Run("a pod that takes the victim's name", func(t *testing.T) {
		old := known
		old.token = token("--audience", "keywell", "--bound-object-kind", "Pod", "--bound-object-name", "app")
		victim.pod().delete(t)
		heir := thief{name: "app"}
		apply(t, heir.manifest())
		heir.pod().waitReady(t)
		eventually(t, patience, func() error { return (caller{namespace: ns, name: "app"}).isForbidden(t) })
		heir.steals(t, old, append(own, attack{"unix:/secrets/http.sock", stranger}, attack{"http://" + cluster.NodeIP + ":3500", stranger},
			attack{"unix:" + old.socket, noSuch}))
	})
}

// isForbidden is nil if localhost answers the pod, with a refusal.
func (c caller) isForbidden(t *testing.T) error {
	out := c.call(t, "steal", secretPath, "", "", "", localhost)
	if !stranger.MatchString(out) {
		return fmt.Errorf("localhost says %s", out)
	}
	return nil
}
