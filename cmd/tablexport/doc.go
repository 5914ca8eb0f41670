// Command tablexport keeps copies of ERP tables fresh for BI.
//
// A tour of the program, along the road that rows take:
//
//	cmd/tablexport  the commands. main.go: flags, dispatch, exit codes. wire.go: the only file that knows every
//	                concrete type. One file per command.
//	configs         the file a user writes, tablexport.yaml
//	jobs            a job becomes a Plan (pure), a Plan becomes a run (Runner); Classify gives errors their meaning
//	jobs/window     which periods there are, and which of them must be read again
//	jobs/schedule, jobs/ledger, jobs/alert, jobs/status   the clock, what became of each tick, who is told, and the pages
//	secrets         a token is lent by Keeper.Lease, audited first; Lease puts it on requests to one host
//	odata           asks the Table API, proves that the answer is complete, decodes JSON into Arrow records
//	odata/scope     Check is the only maker of what the writer takes
//	odata/extsort   keys of any number of rows, sorted and joined in bounded memory
//	export          stages Parquet files and publishes them with one put-if-absent of a Delta log entry
//	export/sets     one pointer to the versions of several datasets that belong together
//
// imports_test.go states who may import whom, as a test.
package main
