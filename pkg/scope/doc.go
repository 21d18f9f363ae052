// Package scope decides who may read which secret.
//
// It is a pure value with one question: a Policy is built once from manifests (Rules) and answers Authorize for an
// Identity and a Ref, with no I/O, no clock and no state. Only a Policy can make a Grant that is not zero, and the
// resolver refuses a zero one: a caller that forgot to ask cannot read.
//
// Three layers agree before a Grant is made, in this order:
//
//  1. Visibility: the store exists, lists the caller's app id or lists none (Dapr Component "scopes"), and, where the
//     store has a namespace, serves it. A caller to whom a store is invisible gets ErrStoreNotFound, as if the store
//     did not exist.
//  2. Dapr scopes (Configuration spec.secrets.scopes), with Dapr's decision table exactly; see StoreScope. Those for
//     everyone and those of the caller's own Configuration must both agree.
//  3. AccessPolicy rules: a matching deny wins; otherwise a matching allow is needed unless the store is open. See Rules.
//
// Every decision names the rule that made it (Decision.Rule), with the file and line that the rule came from.
package scope
