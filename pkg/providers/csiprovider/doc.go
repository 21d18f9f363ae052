// Package csiprovider is the bridge to the providers of the Secrets Store CSI driver: programs that serve
// v1alpha1.CSIDriverProvider on a Unix socket, PROVIDER.sock in a directory of theirs.
//
// A store is one SecretProviderClass. It has one secret, named as the class, whose fields are the files that the provider
// returns, by their paths. The provider is told who the pod is, as that driver tells it, and decides by itself.
//
// Files come back in the answer, or not at all: a provider that writes them where it is told to finds nothing there, because
// what is in a volume is written by the agent alone. Their modes are the volume's. Versions are not sent to the provider:
// some take them for a permission to read the old content from that place.
package csiprovider
