// Package leak holds the test that no secret leaves the agent by a side door.
//
// The test runs the real agent at debug level with a canary in every kind of secret that it handles, takes it through
// success and failure, and then searches everything that the agent has said for the canaries, in plain and in the forms
// that encoders give them. The canaries are also looked for where they must be, the mounted files and the API's answers,
// so that a test that plants or searches wrongly fails.
package leak
