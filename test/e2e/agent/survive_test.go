package agent_test

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// survivor is a pod that runs through what a test does to the node. Its Secret is db with the field password.
type survivor struct {
	pod
	file  string // the password's, as seen from here
	mount uint64 // the volume's file system
}

func newSurvivor(t *testing.T, ns string) survivor {
	t.Helper()
	apply(t, reader(ns, "app")+mayRead(ns, "app", "db")+secretOf(ns, "db", map[string]string{"password": "before"}))
	s := survivor{pod: appPod(ns, "survivor")}
	s.start(t)
	s.file = s.directory(t) + "/db/password"
	s.mount = fileSystem(t, s.directory(t))
	return s
}

func appPod(ns, name string) pod {
	return pod{namespace: ns, name: name, serviceAccount: "app", attributes: map[string]string{"store": "kubernetes", "secrets": "db"}}
}

func fileSystem(t *testing.T, path string) uint64 {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		t.Fatal(err)
	}
	return s.Dev
}

// wantIntact fails the test if the pod's file changed or is gone.
func (s survivor) wantIntact(t *testing.T, want string) {
	t.Helper()
	got, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Fatalf("the running pod's file (-want +got):\n%s", diff)
	}
}

// wantAlive shows that all goes on: the pod has run through, in the same volume, which follows the Secret, and another
// pod can start and end.
func (s survivor) wantAlive(t *testing.T, value string) {
	t.Helper()
	setField(t, s.namespace, "db", "password", value)
	waitFile(t, patience, s.file, value)
	s.wantFile(t, "db/password", value)
	for _, c := range get[podObject](t, s.path()).Status.ContainerStatuses {
		if c.RestartCount > 0 {
			t.Errorf("the pod was restarted %d times", c.RestartCount)
		}
	}
	if fileSystem(t, s.directory(t)) != s.mount {
		t.Error("the volume was mounted again")
	}
	newcomer := appPod(s.namespace, "after-"+value)
	newcomer.start(t)
	newcomer.wantFile(t, "db/password", value)
	newcomer.delete(t)
}

// wantNoWarning fails the test if Keywell warned the pod's owner: what the agent's end means for a volume is nothing to
// worry about.
func (s survivor) wantNoWarning(t *testing.T) {
	t.Helper()
	type list struct {
		Items []struct{ Reason, Message string }
	}
	for _, e := range get[list](t, "/api/v1/namespaces/"+s.namespace+"/events?fieldSelector=type%3DWarning,source%3Dkeywell").Items {
		t.Errorf("the pod's owner was warned: %s: %s", e.Reason, e.Message)
	}
}

// onNode runs a script on the node.
func onNode(t *testing.T, script string) string {
	t.Helper()
	out, err := node.NodeCommand(t.Context(), "sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

// comers are a pod that starts and one that ends while something happens to the agent.
type comers struct{ starts, ends pod }

// newComers makes the pod that will end.
func newComers(t *testing.T, s survivor, name string) comers {
	t.Helper()
	c := comers{starts: appPod(s.namespace, name+"-starts"), ends: appPod(s.namespace, name+"-ends")}
	c.ends.start(t)
	return c
}

func (c comers) goAhead(t *testing.T) {
	t.Helper()
	c.ends.deleteLater(t)
	apply(t, c.starts.manifest())
}

func (c comers) wantDone(t *testing.T, value string) {
	t.Helper()
	c.ends.waitGone(t)
	c.starts.waitReady(t)
	c.starts.wantFile(t, "db/password", value)
	c.starts.delete(t)
}

// TestAgentKilled kills the agent's process, and then has its pod replaced, while a Secret changes and pods start and end.
func TestAgentKilled(t *testing.T) {
	install(t, defaults())
	s := newSurvivor(t, newNamespace(t, "agent-killed"))
	killed := newComers(t, s, "killed")
	began := time.Now()
	onNode(t, "kill -9 $(pidof agent)")
	killed.goAhead(t)
	setField(t, s.namespace, "db", "password", "meanwhile")
	s.wantIntact(t, "before")
	waitFile(t, patience, s.file, "meanwhile")
	measured(t, "agent killed: until a change of that moment is in the file", "%s", seconds(time.Since(began)))
	killed.wantDone(t, "meanwhile")
	s.wantAlive(t, "killed")

	replaced := newComers(t, s, "replaced")
	kubectl(t, "delete", "pods", "--namespace", keywellNamespace, "--selector", "app.kubernetes.io/name=keywell", "--force", "--grace-period=0")
	replaced.goAhead(t)
	s.wantIntact(t, "killed")
	waitRollout(t)
	replaced.wantDone(t, "killed")
	s.wantAlive(t, "replaced")
	s.wantNoWarning(t)
}

// TestUpgrade changes a value while pods run, start and end.
func TestUpgrade(t *testing.T) {
	install(t, defaults())
	s := newSurvivor(t, newNamespace(t, "upgrade"))
	upgraded := newComers(t, s, "upgraded")
	began := time.Now()
	helmUpgrade(t, defaults().with("log", values{"level": "debug"}))
	upgraded.goAhead(t)
	waitInstalled(t)
	measured(t, "helm upgrade that replaces the agent", "%s", seconds(time.Since(began)))
	s.wantIntact(t, "before")
	upgraded.wantDone(t, "before")
	s.wantAlive(t, "upgraded")
	s.wantNoWarning(t)
}

// TestUninstall removes Keywell under running pods, and installs it again.
func TestUninstall(t *testing.T) {
	install(t, defaults())
	s := newSurvivor(t, newNamespace(t, "uninstall"))
	leaver, newcomer := appPod(s.namespace, "leaver"), appPod(s.namespace, "newcomer")
	leaver.start(t)
	uninstall(t)
	s.wantFile(t, "db/password", "before")

	leaver.deleteLater(t)
	apply(t, newcomer.manifest())
	setField(t, s.namespace, "db", "password", "meanwhile")
	s.wantIntact(t, "before")

	began := time.Now()
	install(t, defaults())
	leaver.waitGone(t)
	measured(t, "installed again: until a pod deleted meanwhile is gone", "%s", seconds(time.Since(began)))
	waitFile(t, patience, s.file, "meanwhile")
	newcomer.waitReady(t)
	measured(t, "installed again: until a pod created meanwhile is ready", "%s", seconds(time.Since(began)))
	newcomer.wantFile(t, "db/password", "meanwhile")
	s.wantAlive(t, "adopted")
	s.wantNoWarning(t)
}

// TestKubeletRestart kills the kubelet.
func TestKubeletRestart(t *testing.T) {
	install(t, defaults())
	s := newSurvivor(t, newNamespace(t, "kubelet-restart"))
	onNode(t, "kill -9 $(pidof kubelet)")
	s.wantIntact(t, "before")
	eventually(t, patience, func() error {
		_, err := node.Kubectl(t.Context(), "exec", "--namespace", s.namespace, s.name, "--", "true")
		return err
	})
	s.wantAlive(t, "restarted")
}

// TestAPIServerGone has the API server refuse connections for a minute.
func TestAPIServerGone(t *testing.T) {
	install(t, defaults())
	s := newSurvivor(t, newNamespace(t, "api-gone"))
	rule := "INPUT -p tcp --dport 6443 -j REJECT --reject-with tcp-reset"
	onNode(t, "iptables -I "+rule)
	back := func() { _ = node.NodeCommand(t.Context(), "sh", "-c", "iptables -D "+rule).Run() }
	defer back()

	over := time.After(time.Minute)
	for gone := true; gone; {
		select {
		case <-over:
			gone = false
		case <-time.After(time.Second):
			s.wantIntact(t, "before")
		}
	}
	if _, err := kubeAPI.do(t.Context(), http.MethodGet, "/version", ""); err == nil {
		t.Fatal("the API server was not gone")
	}
	back()
	began := time.Now()
	eventually(t, patience, func() error {
		_, err := kubeAPI.do(t.Context(), http.MethodGet, "/readyz", "")
		return err
	})
	setField(t, s.namespace, "db", "password", "back")
	waitFile(t, patience, s.file, "back")
	measured(t, "API server away for a minute: until a change after that is in the file", "%s", seconds(time.Since(began)))
	s.wantAlive(t, "recovered")
}

// TestNamespaceDeleted deletes a namespace under its pods, and looks for what stays.
func TestNamespaceDeleted(t *testing.T) {
	install(t, defaults())
	ns := newNamespace(t, "deleted")
	s := newSurvivor(t, ns)
	other := appPod(ns, "other")
	other.start(t)
	var uids []string
	for _, p := range []pod{s.pod, other} {
		uids = append(uids, get[podObject](t, p.path()).Metadata.UID)
	}
	began := time.Now()
	kubectl(t, "delete", "namespace", ns, "--timeout", patience.String())
	measured(t, "namespace with two pods deleted", "%s", seconds(time.Since(began)))
	eventually(t, patience, func() error {
		for _, uid := range uids {
			if left := onNode(t, "grep "+uid+" /proc/1/mountinfo; ls -d /var/lib/kubelet/pods/"+uid+" 2>/dev/null; grep -rl "+uid+" /run/keywell; true"); left != "" {
				return fmt.Errorf("left of the pod: %s", left)
			}
		}
		return nil
	})
}

// reset leaves of a node what a reboot does: no process but the first, nothing mounted below the kubelet's pods
// and nothing in /run. What starts again while this runs is ended by the second round.
const reset = `
for round in 1 2; do
	kill -9 -1
	for m in $(awk '$5 ~ "^/var/lib/kubelet/pods/|^/run/." {print $5}' /proc/1/mountinfo | sort -r); do umount -l "$m"; done
	rm -rf /run/*
done
ip link show type veth | sed -n 's/^[0-9]*: \(veth[^@:]*\).*/\1/p' | while read -r link; do ip link delete "$link"; done
`

// TestReboot resets the node under a running pod.
func TestReboot(t *testing.T) {
	install(t, defaults())
	ns := newNamespace(t, "reboot")
	s := newSurvivor(t, ns)
	onNode(t, reset)
	if _, err := os.Stat(s.file); err == nil {
		t.Fatal("the volume outlived the reset")
	}
	began := time.Now()
	eventually(t, patience, func() error {
		_, err := kubeAPI.do(t.Context(), http.MethodGet, "/readyz", "")
		return err
	})
	eventually(t, patience, func() error {
		got := get[podObject](t, s.path())
		if len(got.Status.ContainerStatuses) != 1 || got.Status.ContainerStatuses[0].RestartCount == 0 || !got.ready() {
			return fmt.Errorf("the pod is not back: %+v", got.Status)
		}
		return nil
	})
	measured(t, "node reset: until its pod runs again", "%s", seconds(time.Since(began)))
	waitRollout(t)
	s.wantFile(t, "db/password", "before")
	setField(t, ns, "db", "password", "after")
	waitFile(t, patience, s.file, "after")
	s.delete(t)
}
