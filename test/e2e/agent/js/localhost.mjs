// Reads a secret with the unmodified Dapr JS SDK, which nothing has configured, by each of its protocols.
// Usage: node localhost.mjs STORE SECRET
import { CommunicationProtocolEnum, DaprClient } from "@dapr/dapr";

const [store, secret] = process.argv.slice(2);
for (const protocol of ["HTTP", "GRPC"]) {
  const client = new DaprClient({ communicationProtocol: CommunicationProtocolEnum[protocol] });
  await client.start();
  console.log(protocol, JSON.stringify(await client.secret.get(store, secret)));
  await client.stop();
}
