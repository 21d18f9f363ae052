package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// attributes is the repeated flag --attribute name=value.
type attributes map[string]string

func (a attributes) String() string { return fmt.Sprint(map[string]string(a)) }

func (a attributes) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("not of the form name=value")
	}
	a[name] = value
	return nil
}

// mountVolume publishes a volume through the CSI socket of a running agent, as the kubelet would.
func mountVolume(ctx context.Context, args []string, out, errOut io.Writer) error {
	var (
		socket string
		short  = attributes{}
		all    = attributes{}
	)
	f := newFlags("mount", "TARGET", errOut)
	f.StringVar(&socket, "csi-socket", defaultCSISocket, "`path` of the agent's CSI socket")
	for name, help := range map[string]string{
		"store":           "`name` of the store",
		"secrets":         "secret names, separated by commas, or a YAML `list` of items",
		"mode":            "octal file `mode`",
		"refreshInterval": "how often secrets are read again, a `duration`",
	} {
		f.Func(name, help, func(v string) error { short[name] = v; return nil })
	}
	f.Var(all, "attribute", "any volume attribute, `name=value`; may be repeated")
	if err := f.parse(args, 1); err != nil {
		return err
	}
	maps.Copy(all, short)
	target, err := filepath.Abs(f.Arg(0))
	if err != nil {
		return err
	}
	// The kubelet makes the parent of a target, so does this.
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return withNode(socket, func(node csi.NodeClient) error {
		_, err := node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId:   volumeID(target),
			TargetPath: target,
			Readonly:   true,
			VolumeCapability: &csi.VolumeCapability{
				AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
				AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			},
			VolumeContext: all,
		})
		if err == nil {
			fmt.Fprintf(out, "mounted %s\n", target)
		}
		return err
	})
}

// unmountVolume unpublishes what mountVolume published. That there is nothing to unmount is no error.
func unmountVolume(ctx context.Context, args []string, out, errOut io.Writer) error {
	var socket string
	f := newFlags("unmount", "TARGET", errOut)
	f.StringVar(&socket, "csi-socket", defaultCSISocket, "`path` of the agent's CSI socket")
	if err := f.parse(args, 1); err != nil {
		return err
	}
	target, err := filepath.Abs(f.Arg(0))
	if err != nil {
		return err
	}
	return withNode(socket, func(node csi.NodeClient) error {
		_, err := node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: volumeID(target), TargetPath: target})
		if err == nil {
			fmt.Fprintf(out, "unmounted %s\n", target)
		}
		return err
	})
}

// volumeID derives the ID of a volume from its target, so that unmount needs to be told nothing else.
func volumeID(target string) string {
	sum := sha256.Sum256([]byte(target))
	return "agent-mount-" + hex.EncodeToString(sum[:16])
}

// csiConn is a connection to a CSI socket.
type csiConn = grpc.ClientConnInterface

// withNode calls the CSI node service on socket. An error that the service returns loses its gRPC frame: the message
// is for people here.
func withNode(socket string, call func(csi.NodeClient) error) error {
	err := withSocket(socket, func(conn csiConn) error { return call(csi.NewNodeClient(conn)) })
	if s, ok := status.FromError(err); ok && err != nil {
		return fmt.Errorf("%s: %s", s.Code(), s.Message())
	}
	return err
}

func withSocket(socket string, call func(csiConn) error) error {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", socket, err)
	}
	defer conn.Close()
	return call(conn)
}
