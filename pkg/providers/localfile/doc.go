// Package localfile is the driver for a JSON file of secrets (secretstores.local.file).
//
// The file is an object; doc comments of parse say which secrets it holds. The package promises that an answer is what
// the file holds now: every Fetch checks whether the file was edited, and Notify reports exactly the secrets whose
// content changed. An edit is seen however it is made: in place, by a rename over the file, or by a swap of a symbolic
// link on the way to it, as in a mounted ConfigMap. A file that is gone, cut off or malformed keeps the content it had
// before, and says so in the log once per problem.
//
// It refuses a file in which anything would be lost: a key that occurs twice, two paths that make one name, bytes that
// are not UTF-8. Errors name line, column and keys, never a value.
package localfile
