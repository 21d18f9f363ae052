// Package daprplugin is the bridge to Dapr's pluggable secret stores: programs that serve
// dapr.proto.components.v1.SecretStore on a Unix socket.
//
// A Directory is where their sockets are. The socket NAME.sock there is the type secretstores.NAME, as in Dapr. There is no
// fixed table of types: the agent asks the Directory for a type that it has no driver for, and is told when sockets come
// and go.
//
// A plugin keeps what a component sets in its memory, so it is initialised anew whenever it may have started again: when
// its socket is another file, and after a call that did not reach it. Dapr itself does so only when it starts. Deadlines
// and the ends of calls reach the plugin, unlike in Dapr.
//
// What a plugin says is not trusted to be free of secrets: of its errors only the code is shown.
//
// It refuses versions, stages and namespaces, because the protocol has no way to say whether a plugin has them.
package daprplugin
