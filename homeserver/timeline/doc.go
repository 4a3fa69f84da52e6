// Package timeline reads rooms for clients: messages, single events and what stands around them, state and
// members, relations, threads, search, and the event nearest to a time.
//
// View is one user's look at one room: it keeps to the events that the user may see, as package visibility decides, and
// gives them the form that this user's device gets, with unsigned data and bundled aggregations. The Service's methods
// each answer one endpoint; clientapi and federation call them, and clientsync makes Views of its own.
//
// The package changes nothing. What only other servers know is asked for through the function fields of
// Service; it knows neither the room engine nor the network.
package timeline
