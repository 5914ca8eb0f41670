import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedOutputStream;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.HexFormat;
import java.util.Iterator;
import org.apache.spark.sql.DataFrameReader;
import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;

/**
 * Reads Delta tables with Spark and Delta's own library, whose Parquet reader is parquet-mr, and says what it finds.
 *
 * <pre>Judge [DATASET_DIR VERSION]...</pre>
 *
 * VERSION -1 is the newest. Each table is read twice: by the reader that Spark has for itself ("spark"), and by that of parquet-mr. Every row is a line on
 * stdout: {"reader": "spark" | "parquet-mr", "table": N, "row": {...}}, where N counts the tables that were named; values have the form that judge.py
 * gives them.
 */
public final class Judge {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final DateTimeFormatter CLOCK = DateTimeFormatter.ofPattern("uuuu-MM-dd'T'HH:mm:ss.SSSSSS'Z'").withZone(ZoneOffset.UTC);

  private Judge() {}

  public static void main(String[] args) throws Exception {
    SparkSession spark = SparkSession.builder()
        .master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.datetime.java8API.enabled", "true")
        .config("spark.sql.parquet.datetimeRebaseModeInRead", "CORRECTED") // as `datasets sql` prints
        .config("spark.databricks.delta.snapshotPartitions", "1")
        .getOrCreate();
    try (PrintStream out = new PrintStream(new BufferedOutputStream(System.out, 1 << 20), false, StandardCharsets.UTF_8)) {
      for (String reader : new String[] {"spark", "parquet-mr"}) {
        spark.conf().set("spark.sql.parquet.enableVectorizedReader", reader.equals("spark"));
        for (int i = 0; i + 1 < args.length; i += 2) {
          read(spark, reader, i / 2, args[i], args[i + 1], out);
        }
      }
      out.flush();
    }
    spark.stop();
  }

  private static void read(SparkSession spark, String by, int number, String dir, String version, PrintStream out) throws Exception {
    DataFrameReader reader = spark.read().format("delta");
    if (!version.equals("-1")) {
      reader = reader.option("versionAsOf", version);
    }
    Dataset<Row> table = reader.load(dir);
    String[] names = table.columns();
    for (Iterator<Row> rows = table.toLocalIterator(); rows.hasNext();) {
      Row row = rows.next();
      ObjectNode line = JSON.createObjectNode();
      line.put("reader", by);
      line.put("table", number);
      ObjectNode values = line.putObject("row");
      for (int c = 0; c < names.length; c++) {
        put(values, names[c], row.get(c));
      }
      out.println(JSON.writeValueAsString(line));
    }
  }

  private static void put(ObjectNode into, String name, Object v) {
    if (v == null) {
      into.putNull(name);
    } else if (v instanceof Boolean b) {
      into.put(name, b);
    } else if (v instanceof Byte || v instanceof Short || v instanceof Integer || v instanceof Long) {
      into.put(name, ((Number) v).longValue());
    } else if (v instanceof Double n) {
      if (n.isNaN() || n.isInfinite()) {
        into.put(name, n.toString());
      } else {
        into.put(name, n);
      }
    } else if (v instanceof BigDecimal n) {
      into.put(name, n.toPlainString());
    } else if (v instanceof byte[] b) {
      into.put(name, HexFormat.of().formatHex(b));
    } else if (v instanceof Instant t) {
      into.put(name, CLOCK.format(t));
    } else { // texts, and LocalDate as ISO 8601 has it
      into.put(name, v.toString());
    }
  }
}
