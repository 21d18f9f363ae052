package api

import "net/url"

// health answers the two health routes.
type health struct {
	appID string
	ready func() []string // names of the parts that are not ready
}

// check returns nil if all parts are ready and the query's appid, if given, is this app's. The error is a *fault.
func (h *health) check(query url.Values) error {
	if down := h.ready(); len(down) > 0 {
		return newFault(notReady, reasonNotReady, down)
	}
	if query.Has("appid") && query.Get("appid") != h.appID {
		return newFault(otherAppID, reasonNotReady)
	}
	return nil
}

// outbound returns nil if all parts are ready. SDKs wait for it at start. The error is a *fault.
func (h *health) outbound() error {
	if len(h.ready()) > 0 {
		return newFault(outboundDown, reasonNotReady)
	}
	return nil
}
