package component

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"strings"
)

// expand replaces Dapr's template tokens (pkg/runtime/meta, convertItemsToProps) in the text of a value. {uuid} becomes
// another UUID at each place and each time that the file is decoded, which is when its content has changed.
func (d *decoder) expand(n node, text string) string {
	if parts := strings.Split(text, "{uuid}"); len(parts) > 1 {
		for i := range parts[1:] {
			parts[i] += newUUID()
		}
		text = strings.Join(parts, "")
	}
	if strings.Contains(text, "{podName}") {
		if d.src.PodName == "" {
			d.fail(n, "uses {podName}, but the name of the pod is not known", "set the agent's pod name, or write the name")
		}
		text = strings.ReplaceAll(text, "{podName}", d.src.PodName)
	}
	namespace := cmp.Or(d.src.Namespace, "default")
	text = strings.ReplaceAll(text, "{namespace}", namespace+"."+d.src.AppID)
	return strings.ReplaceAll(text, "{appID}", d.src.AppID)
}

// newUUID returns a random UUID (RFC 9562, version 4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}
