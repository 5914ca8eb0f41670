// Package status is what people and machines see of a running clock: pages, a JSON API, health, readiness,
// Prometheus metrics.
//
// It shows; it decides nothing. What it shows comes from the ledger and from a [Source], which the program fills in.
package status
