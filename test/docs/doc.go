// Package docs holds the tests that keep the documentation true. They read the pages, as package docpage describes them,
// and hold them against the code: manifests load without a finding, examples of volumes give the files that stand beside
// them, tables of flags and settings are those of the agent, links lead somewhere, and shell sessions print what the page
// says. Sessions that need a cluster run in test/e2e/agent.
package docs
