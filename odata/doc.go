// Package odata asks an instance's Table API for tables, and answers with Arrow records that carry
// the evidence of their completeness.
//
// The tour, in the order in which a request meets the parts:
//
//	client.go     Client: one per instance and process. Holds what all jobs share: limiter, breaker,
//	              transport, the discovered site, what the server was found to take.
//	address.go    which addresses may be asked, with a token or at all.
//	discovery.go  the Table API site of an instance.
//	session.go    Session: a Client with a credential (Authorizer). Site, Ping, Metadata, Count, Scan.
//	query.go      Query: table, columns, filter, paging → the parameters of a request, percent-encoded once.
//	transport.go  HTTP: TLS, phase timeouts, idle-read timeout.
//	coding.go     compressed answers or plain ones, by what is faster.
//	inflate.go    gzip and zstd, undone on a goroutine of their own.
//	request.go    one request: status rules, retry( breaker( fetch + read )), limiter, credential.
//	errors.go     the facts that can arise, one type each, and how to read them.
//	traits.go     what a server does with $orderby, ge and $count: asked once, remembered; the choice of paging.
//	scan.go       Scan: learn, count, page, count, confirm, judge.
//	relay.go      from the scan to the loop that ranges over it: the next page comes while this one is worked on.
//	page.go       one answer: its rows are held until it has ended properly, checked against the ones before.
//	page_key.go, page_offset.go, page_chain.go   the ways from one answer to the next.
//	keys.go       keys as bytes that compare as the server compares; fingerprints of rows.
//	distinct.go   counting different keys in bounded memory.
//	fetch.go      rows by their keys, many at once, every key accounted for.
//	keyset.go     the keys of several scans, which must not repeat.
//	decode.go     JSON → Arrow, schema-driven, one validating pass. The hot path.
//
// A scan is believed if its evidence says so (package evidence), and ends with a *[RescanError] otherwise. Whoever
// runs it throws away what came, and starts another while RescanError.Retry says that this may help, a few times:
//
//	for q.Attempt = 1; q.Attempt <= 3; q.Attempt++ {
//		scan, err := session.Scan(q)
//		…
//		for rec, err := range scan.Records(ctx) { … }
//	}
//
// Below it: edm (the table model), filter (one tree, two readings), evidence (what a scan can say for itself),
// scope (the row-level check), simulator (a Table API that behaves as documented, faults included).
package odata
