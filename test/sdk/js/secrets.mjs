// Calls the secrets API with the unmodified Dapr JS SDK and exits with 1 if an answer is not as expected.
// Usage: node secrets.mjs http|grpc HOST PORT FILE, where FILE holds the secrets of the store rotating.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { CommunicationProtocolEnum, DaprClient } from "@dapr/dapr";

const [protocol, daprHost, daprPort, file] = process.argv.slice(2);
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
  if (!http) { // the SDK has this building block over gRPC only
    const { items } = await client.configuration.get("rotating", ["password"]);
    assert.equal(items.password.value, "1");
    let told;
    const rotated = new Promise((resolve) => (told = resolve));
    const subscription = await client.configuration.subscribeWithKeys("rotating", ["password"], async ({ items }) => told(items.password.value));
    // The SDK does not say when the subscription stands, so rotate until it tells of it.
    let version = 1;
    const content = await readFile(file, "utf8");
    const timer = setInterval(() => writeFile(file, content.replaceAll(`"1"`, `"${++version}"`)), 500);
    const timeout = setTimeout(() => { console.error("no rotation came in 20 s"); process.exit(1); }, 20_000);
    assert.match(await rotated, /^[2-9]/);
    clearInterval(timer);
    clearTimeout(timeout);
    await subscription.stop(); // or else node would not end
  }
  console.log(`JS SDK over ${protocol}: all answers as expected`);
} finally {
  await client.stop();
}
