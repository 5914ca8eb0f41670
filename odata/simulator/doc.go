// Package simulator is a Table API instance that behaves as documented, limits and faults included. Tests, the demo and
// users' own CI run against it.
//
// A [Server] is an http.Handler. It answers discovery, the identity site, the service document, $metadata and the
// tables of the embedded model with rows that are generated while they are written: row i of a table is a pure
// function of seed, table and i, so that ten million rows need no more memory than ten. What a well-behaved server would
// do is the zero value of everything; a [Behavior] says how this server differs, a [Fault] what goes wrong once.
//
// The tour:
//
//	server.go    Server, Options, routing
//	auth.go      service access tokens, client credentials, sessions and licenses
//	gate.go      global concurrency and its queue
//	metadata.go  discovery, service document, CSDL
//	query.go     the query options of a request, and what is refused
//	filter.go    $filter: parser and evaluator, on their own (nothing is shared with package filter)
//	stream.go    one answer, row by row
//	faults.go    what can go wrong with an answer
//	schema.go    tables, columns and key spaces; generate.go their values; cell.go their texts
//	world.go     which rows live, in which version; mutate.go changes that; evolve.go lets days pass
//	calendar.go  an index over dates, so that a window of a large table costs what its rows cost
//	order.go     the orders in which rows can come
//	oracle.go    what a correct copy must hold
//
// # Canonical cells
//
// The oracle ([Oracle]) gives every value as one text, so that a copy can be compared with it through any reader:
//
//	NULL            the constant [Null]
//	Edm.Guid        36 characters, lower case
//	Edm.String      the text itself
//	multi-language  the JSON object exactly as it is sent (compact, members in the order sent)
//	Edm.Boolean     true, false
//	integers        decimal digits, "-" before negative ones
//	Edm.Decimal     exactly as many digits behind the point as the scale says, no point for scale 0; zero has no sign
//	Edm.Double      the shortest text that reads back as the same number (strconv 'g', precision -1)
//	Edm.Date        2006-01-02
//	datetime        2006-01-02T15:04:05.000000Z: UTC, always six digits, the seventh cut off (not rounded)
//	Edm.TimeOfDay   15:04:05 with the fraction digits as they are sent
//	Edm.Binary      lower-case hexadecimal
//
// # What is an assumption
//
// The vendor does not document $orderby, $count and @odata.nextLink for the Table API, the answer when no license is
// free (here 503), nor how texts are compared (here without regard to case, as SQL Server's default collation
// does). Each of these is an option or is noted where it is made.
package simulator
