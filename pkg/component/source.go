package component

// Sources says where manifests come from and what their templates mean.
type Sources struct {
	Directories []string // resource directories: their *.yaml and *.yml files, not those of subdirectories
	Files       []string // configuration files (Dapr's --config), applied in order after the directories

	// Namespace leaves out manifests that name another namespace. Empty: none is left out. It is Dapr's NAMESPACE
	// environment variable in self-hosted mode.
	Namespace string
	AppID     string // for {appID} and {namespace}
	PodName   string // for {podName}; empty: a manifest that uses the token is an error

	// LookupEnv gives the values of $VAR and ${VAR} in Files, in which Dapr replaces them throughout. Nil: they stay.
	LookupEnv func(name string) (string, bool)
}

// Load reads all sources once. Problems come in the order of the sources; with problems or without, the Manifests hold
// everything that could be used.
func Load(src Sources) (*Manifests, []Problem) {
	return newSnapshot(src).load()
}
