package csi

import (
	"context"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// GetPluginInfo returns the driver's name and the agent's version.
func (s *Server) GetPluginInfo(context.Context, *csipb.GetPluginInfoRequest) (*csipb.GetPluginInfoResponse, error) {
	return &csipb.GetPluginInfoResponse{Name: s.opts.Name, VendorVersion: s.opts.Version}, nil
}

// GetPluginCapabilities returns none: there is no Controller service, and ephemeral volumes have no topology.
func (s *Server) GetPluginCapabilities(context.Context, *csipb.GetPluginCapabilitiesRequest) (*csipb.GetPluginCapabilitiesResponse, error) {
	return &csipb.GetPluginCapabilitiesResponse{}, nil
}

// Probe tells whether volumes can be served. An agent that is not ready is healthy all the same: the CSI specification
// keeps an error for one that should be restarted, and a store that is down is no reason for that.
func (s *Server) Probe(ctx context.Context, _ *csipb.ProbeRequest) (*csipb.ProbeResponse, error) {
	err := s.opts.Ready()
	if err != nil {
		s.opts.Logger.DebugContext(ctx, "not ready", "err", err)
	}
	return &csipb.ProbeResponse{Ready: wrapperspb.Bool(err == nil)}, nil
}
