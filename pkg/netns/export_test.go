package netns

// OnThread is how a thread is kept from coming back.
var OnThread = onThread
