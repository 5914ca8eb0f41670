// Command tablexport keeps copies of ERP tables fresh for BI.
//
// A tour of the program, along the road that rows take:
//
//	cmd/tablexport  the commands. main.go: flags, dispatch, exit codes. wire.go: the only file that knows every
//	                concrete type. One file per command.
//	configs         the file a user writes, tablexport.yaml
//	jobs            a job becomes a Plan (pure), a Plan becomes a run (Runner); Classify gives errors their meaning
//	secrets         a token is lent by Keeper.Lease, audited first; Lease puts it on requests to one host
//	odata           asks the Table API, proves that the answer is complete, decodes JSON into Arrow records
//	odata/scope     Check is the only maker of what the writer takes
//	export          stages Parquet files and publishes them with one put-if-absent of a Delta log entry
//
// imports_test.go states who may import whom, as a test.
package main
