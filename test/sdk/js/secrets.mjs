// Calls the secrets API with the unmodified Dapr JS SDK and exits with 1 if an answer is not as expected.
// Usage: node secrets.mjs http|grpc HOST PORT
import assert from "node:assert/strict";
import { CommunicationProtocolEnum, DaprClient } from "@dapr/dapr";

const [protocol, daprHost, daprPort] = process.argv.slice(2);
const http = protocol === "http";
const client = new DaprClient({
  daprHost,
  daprPort,
  communicationProtocol: http ? CommunicationProtocolEnum.HTTP : CommunicationProtocolEnum.GRPC,
});

try {
  await client.start(); // polls metadata until the answer is not empty

  assert.deepEqual(await client.secret.get("single", "plain"), { plain: "s3cret" });
  assert.deepEqual(await client.secret.get("single", "nested:a:b"), { "nested:a:b": "deep" });
  // The SDK puts the key into the path as it is: a slash in it needs a server that accepts raw slashes.
  assert.deepEqual(await client.secret.get("single", "with/slash"), { "with/slash": "slashed" });
  assert.deepEqual(await client.secret.get("environment", "GREETING"), { GREETING: "hello" });

  const db = await client.secret.get("multi", "db");
  if (http) {
    assert.deepEqual(db, { user: "u", password: "p" });
  } else {
    assert.equal(Object.keys(db).length, 1); // over gRPC the SDK keeps one field only
  }

  const bulk = await client.secret.getBulk("single");
  assert.deepEqual(Object.keys(bulk).sort(), ["nested:a:b", "plain", "unicode", "with/slash"]);

  await assert.rejects(client.secret.get("single", "missing"), /secret missing not found/);
  await assert.rejects(client.secret.get("single", "forbidden"), /access denied by policy/);
  await assert.rejects(client.secret.get("nowhere", "x"), /failed finding secret store with key nowhere/);

  const metadata = await client.metadata.get();
  assert.equal(metadata.id, "sdk-test");
  console.log(`JS SDK over ${protocol}: all answers as expected`);
} finally {
  await client.stop();
}
