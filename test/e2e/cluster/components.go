package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Addresses and names that are the same in every cluster.
const (
	NodeName = "node"
	NodeIP   = "10.200.0.1" // where the node is reached, and where a test can listen for pods (see InNetwork)

	apiServiceIP      = "10.96.0.1"
	serviceRange      = "10.96.0.0/16"
	podRange          = "10.244.0.0/24"
	apiURL            = "https://" + NodeIP + ":6443"
	etcdURL           = "http://127.0.0.1:2379"
	containerdAddress = "/run/containerd/containerd.sock"
	volumePluginDir   = "/var/lib/kubelet/volumeplugins"
)

// component is a program that runs for as long as the cluster does.
type component struct {
	Name string
	Args []string // the program's path first
}

// layout is where a cluster's files are.
type layout struct {
	dir         string // the cluster's own, removed with it
	logs        string // outlives it
	kube, tools string // binaries
}

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}
func (l layout) pki(name string) string        { return l.path("pki", name) }
func (l layout) kubeconfig(user string) string { return l.path(user + ".kubeconfig") }

// searchPath is the PATH of everything in the cluster.
func (l layout) searchPath() string {
	return l.kube + ":" + l.tools + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// write makes the directory's content: keys, certificates and one configuration file per component that needs one.
func (l layout) write() error {
	for _, dir := range []string{"pki", "cni", "kubelet", "var", "var.work", "sysctl"} {
		if err := os.MkdirAll(l.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := writePKI(l.path("pki")); err != nil {
		return err
	}
	for path, content := range map[string]string{
		l.kubeconfig("admin"):          l.kubeconfigFor("admin"),
		l.kubeconfig("node"):           l.kubeconfigFor("node"),
		l.path("kubelet.yaml"):         l.kubeletConfig(),
		l.path("containerd.toml"):      l.containerdConfig(),
		l.path("cni", "pods.conflist"): cniConfig,
		// No name is resolved outside: there is no resolver to reach.
		l.path("resolv.conf"): "nameserver 127.0.0.1\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (l layout) kubeconfigFor(user string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: keywell-e2e
contexts:
- name: keywell-e2e
  context: {cluster: keywell-e2e, user: %[1]s}
clusters:
- name: keywell-e2e
  cluster: {server: %[2]q, certificate-authority: %[3]q}
users:
- name: %[1]s
  user: {client-certificate: %[4]q, client-key: %[5]q}
`, user, apiURL, l.pki("ca.crt"), l.pki(user+".crt"), l.pki(user+".key"))
}

// kubeletConfig asks for frequent syncs, so that requiresRepublish of a CSI driver is seen every 10 to 15 s. Nothing is ever
// evicted: a developer's disk may be nearly full. protectKernelDefaults makes the kubelet verify kernel settings, which
// it would otherwise overwrite (see fakeSysctls).
func (l layout) kubeletConfig() string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  x509: {clientCAFile: %q}
  anonymous: {enabled: false}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://%s
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
protectKernelDefaults: true
makeIPTablesUtilChains: false
oomScoreAdj: 0
maxOpenFiles: 20000
syncFrequency: 10s
volumePluginDir: %s
resolvConf: %q
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 0%%, nodefs.available: 0%%, nodefs.inodesFree: 0%%, imagefs.available: 0%%, imagefs.inodesFree: 0%%}
`, l.pki("ca.crt"), containerdAddress, volumePluginDir, l.path("resolv.conf"))
}

// containerdConfig leaves out the plugins that need what is not here, or make directories in /opt. restrict_oom_score_adj is for machines whose root may not
// lower that score.
func (l layout) containerdConfig() string {
	return fmt.Sprintf(`version = 3
root = %[1]q
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.differ.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
  "io.containerd.internal.v1.opt",
]
[grpc]
  address = %[2]q
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = %[3]q
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%[4]q]
    conf_dir = %[5]q
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
`, l.path("containerd"), containerdAddress, pauseImage, l.tools, l.path("cni"))
}

const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{
    "type": "ptp",
    "ipMasq": false,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "` + podRange + `"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}
`

// components are the cluster's programs in the order in which they are started.
func (l layout) components() []component {
	run := func(name string, flags ...string) component {
		return component{Name: name, Args: append([]string{filepath.Join(l.kube, name)}, flags...)}
	}
	admin := "--kubeconfig=" + l.kubeconfig("admin")
	return []component{
		run("etcd",
			"--data-dir="+l.path("etcd"),
			"--unsafe-no-fsync",
			"--log-level=warn",
			"--listen-client-urls="+etcdURL,
			"--advertise-client-urls="+etcdURL,
			"--listen-peer-urls=http://127.0.0.1:2380",
		),
		run("kube-apiserver",
			"--advertise-address="+NodeIP,
			"--etcd-servers="+etcdURL,
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true",
			"--client-ca-file="+l.pki("ca.crt"),
			"--tls-cert-file="+l.pki("apiserver.crt"),
			"--tls-private-key-file="+l.pki("apiserver.key"),
			"--kubelet-preferred-address-types=InternalIP", // there is no DNS to resolve the node's name
			"--kubelet-client-certificate="+l.pki("admin.crt"),
			"--kubelet-client-key="+l.pki("admin.key"),
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file="+l.pki("service-accounts.pub"),
			"--service-account-signing-key-file="+l.pki("service-accounts.key"),
			"--service-cluster-ip-range="+serviceRange,
		),
		{Name: "containerd", Args: []string{filepath.Join(l.tools, "containerd"), "--config", l.path("containerd.toml")}},
		// With the administrator's rights and one identity, the default service account is there a second earlier.
		run("kube-controller-manager", admin,
			"--leader-elect=false",
			"--flex-volume-plugin-dir="+volumePluginDir, // its default is made where it is missing
			"--root-ca-file="+l.pki("ca.crt"),
			"--service-account-private-key-file="+l.pki("service-accounts.key"),
			"--cluster-signing-cert-file="+l.pki("ca.crt"),
			"--cluster-signing-key-file="+l.pki("ca.key"),
		),
		run("kube-scheduler", admin, "--leader-elect=false"),
		run("kubelet",
			"--config="+l.path("kubelet.yaml"),
			"--kubeconfig="+l.kubeconfig("node"),
			"--hostname-override="+NodeName,
			"--node-ip="+NodeIP,
		),
		// The conntrack settings belong to the whole machine: 0 leaves them alone.
		run("kube-proxy", admin,
			"--proxy-mode=iptables",
			"--hostname-override="+NodeName,
			"--cluster-cidr="+podRange,
			"--conntrack-max-per-core=0",
			"--conntrack-tcp-timeout-established=0",
			"--conntrack-tcp-timeout-close-wait=0",
		),
	}
}

// environment is what the cluster's programs have in theirs.
func (l layout) environment() []string {
	return []string{"PATH=" + l.searchPath(), "HOME=" + l.dir, "LANG=C.UTF-8"}
}

// tail is the end of a component's log, for an error.
func (l layout) tail(name string) string {
	data, err := os.ReadFile(filepath.Join(l.logs, name+".log"))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
