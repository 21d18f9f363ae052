package cri

// NamespaceOf reads a verbose status.
var NamespaceOf = namespaceOf
