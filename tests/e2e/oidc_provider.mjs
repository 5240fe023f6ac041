// An OpenID provider for the tests: npm's certified oidc-provider, with Auth0's paths and Auth0's
// parameter `audience`. oidc_provider.py starts it and describes its controls.
//
// Its only argument is a JSON object: modules (node_modules), port, path (of the issuer), audience,
// page_origins, users, and host, if its issuer is https://HOST:PORT behind something that ends TLS.
// It prints {"port":…,"control":…} when it listens. Everything is in memory.
import http from "node:http";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { pathToFileURL } from "node:url";

const options = JSON.parse(process.argv[2]);
const oidc = await import(pathToFileURL(`${options.modules}/oidc-provider/lib/index.js`));

const HOST = "127.0.0.1";
const issuer = `${options.host ? `https://${options.host}` : `http://${HOST}`}:${options.port}${options.path}`;
const SCOPES = "openid profile email offline_access";

// What the tests control. `answers` replace those of the provider, by path.
const users = new Map(Object.entries(options.users));
const answers = new Map();
const settings = { delay: 0, token_seconds: 300, opaque: false };
let requests = [];
let keys = [];
let keyCount = 0;
let handler;

function addKey() {
  const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
  keyCount += 1;
  const key = { ...privateKey.export({ format: "jwk" }), kid: `key-${keyCount}`, alg: "RS256", use: "sig" };
  keys.unshift(key); // the provider signs with the first
}

// -- the provider's records, which outlive a new set of keys

const records = new Map();

class Adapter {
  constructor(name) {
    this.name = name;
  }
  key(id) {
    return `${this.name}:${id}`;
  }
  async upsert(id, payload, seconds) {
    records.set(this.key(id), { payload, expires: seconds ? Date.now() + seconds * 1000 : Infinity });
  }
  async find(id) {
    const found = records.get(this.key(id));
    return found && found.expires > Date.now() ? found.payload : undefined;
  }
  findBy(member, value) {
    for (const [key, { payload, expires }] of records)
      if (key.startsWith(`${this.name}:`) && payload[member] === value && expires > Date.now()) return payload;
  }
  async findByUid(uid) {
    return this.findBy("uid", uid);
  }
  async findByUserCode(code) {
    return this.findBy("userCode", code);
  }
  async destroy(id) {
    records.delete(this.key(id));
  }
  async consume(id) {
    (await this.find(id)).consumed = Math.floor(Date.now() / 1000);
  }
  async revokeByGrantId(grantId) {
    for (const [key, { payload }] of records) if (payload.grantId === grantId) records.delete(key);
  }
}

function endGrants(user) {
  for (const [key, { payload }] of records) if (payload.accountId === user) records.delete(key);
}

// -- the provider

function claimsOf(user) {
  const { groups, ...claims } = users.get(user);
  return {
    name: user,
    email: `${user}@example.org`,
    email_verified: true,
    groups,
    "https://example.org/groups": groups,
    realm_access: { roles: groups },
    ...claims,
  };
}

function configuration() {
  const native = {
    application_type: "native",
    redirect_uris: ["http://127.0.0.1/callback", "http://[::1]/callback"],
    response_types: ["code"],
    grant_types: [
      "authorization_code",
      "refresh_token",
      ...(options.device_grant ? ["urn:ietf:params:oauth:grant-type:device_code"] : []),
    ],
  };
  const page = {
    application_type: "web",
    redirect_uris: options.page_origins.map((origin) => `${origin}/ctllm/callback`),
    post_logout_redirect_uris: options.page_origins.map((origin) => `${origin}/`),
    response_types: ["code"],
    grant_types: ["authorization_code", "refresh_token"],
  };
  const clients = [
    { client_id: "desktop", token_endpoint_auth_method: "none", ...native },
    { client_id: "installed", client_secret: "not-confidential", token_endpoint_auth_method: "client_secret_post", ...native },
    { client_id: "another", token_endpoint_auth_method: "none", ...native },
  ];
  if (options.page_origins.length)
    clients.push(
      { client_id: "page", client_secret: "page-secret", token_endpoint_auth_method: "client_secret_basic", ...page },
      { client_id: "public-page", token_endpoint_auth_method: "none", ...page },
    );
  return {
    adapter: Adapter,
    jwks: { keys },
    cookies: { keys: ["only for tests"] },
    clients,
    routes: {
      authorization: "/authorize",
      token: "/oauth/token",
      device_authorization: "/oauth/device/code",
      code_verification: "/activate",
      jwks: "/.well-known/jwks.json",
      userinfo: "/userinfo",
      end_session: "/oidc/logout",
      revocation: "/oauth/revoke",
    },
    scopes: SCOPES.split(" "),
    claims: { openid: ["sub", "groups", "https://example.org/groups", "realm_access"], profile: ["name"], email: ["email", "email_verified"] },
    conformIdTokenClaims: false, // the claims are in the ID token, too
    extraParams: ["audience"],
    features: {
      deviceFlow: { enabled: options.device_grant },
      revocation: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx) => ctx.oidc.params?.audience ?? ctx.oidc.body?.audience,
        useGrantedResource: () => true,
        getResourceServerInfo: (ctx, resource) => {
          if (resource !== options.audience) throw new oidc.errors.InvalidTarget();
          const format = settings.opaque ? "opaque" : "jwt";
          return { scope: SCOPES, audience: resource, accessTokenTTL: settings.token_seconds, accessTokenFormat: format, jwt: { sign: { alg: "RS256" } } };
        },
      },
    },
    pkce: { required: () => true },
    issueRefreshToken: async (ctx, client) => client.grantTypeAllowed("refresh_token"),
    expiresWithSession: () => false,
    rotateRefreshToken: true, // a refresh token that is used again ends its grant
    ttl: { AccessToken: () => settings.token_seconds, IdToken: () => settings.token_seconds, AuthorizationCode: 60, DeviceCode: 600, RefreshToken: 86400, Grant: 86400, Session: 86400, Interaction: 600 },
    extraTokenClaims: (ctx, token) => (token.accountId && users.has(token.accountId) ? claimsOf(token.accountId) : undefined),
    findAccount: (ctx, sub) => (users.has(sub) ? { accountId: sub, claims: () => ({ sub, ...claimsOf(sub) }) } : undefined),
    // No page of consent, as with an application of one's own at Auth0.
    loadExistingGrant: async ({ oidc: { client, provider, result, session } }) => {
      const id = result?.consent?.grantId || session.grantIdFor(client.clientId);
      const found = id && (await provider.Grant.find(id));
      if (found) return found;
      const grant = new provider.Grant({ clientId: client.clientId, accountId: session.accountId });
      grant.addOIDCScope(SCOPES);
      grant.addResourceScope(options.audience, SCOPES);
      await grant.save();
      return grant;
    },
  };
}

function build() {
  const provider = new oidc.Provider(issuer, configuration());
  provider.on("server_error", (ctx, error) => console.error("server_error", error));
  for (const event of ["grant.error", "authorization.error"])
    provider.on(event, (ctx, error) => console.log(event, error.error, error.error_description, error.error_detail ?? ""));
  provider.proxy = Boolean(options.host);
  handler = provider.callback();
}

// -- its answers, and those that a test sets

async function answer(request, response, { status = 200, headers = {}, body = "", repeat = 1, drip = 0, endless = false }) {
  response.writeHead(status, { "content-type": "application/json", ...headers });
  let open = true;
  response.on("close", () => (open = false));
  if (drip)
    for (const character of body) {
      if (!open) return;
      response.write(character);
      await new Promise((resolve) => setTimeout(resolve, drip));
    }
  else for (let count = 0; open && count < repeat; count++) if (!response.write(body)) await drained(response);
  while (endless && open) if (!response.write(body)) await drained(response);
  response.end();
}

function drained(response) {
  return new Promise((resolve) => {
    response.once("drain", resolve);
    response.once("close", resolve);
  });
}

const server = http.createServer((request, response) => {
  const path = request.url.replace(/\?.*/, "");
  const inside = path.startsWith(options.path.replace(/\/$/, "")) ? path.slice(options.path.replace(/\/$/, "").length) : path;
  if (options.host && request.headers.host.startsWith(options.host)) request.headers["x-forwarded-proto"] = "https";
  requests.push({ method: request.method, path: inside, headers: request.headers });
  setTimeout(() => {
    if (answers.has(inside)) return void answer(request, response, answers.get(inside));
    request.originalUrl = request.url; // the provider is mounted below its issuer's path
    request.url = request.url.slice(options.path.replace(/\/$/, "").length);
    handler(request, response);
  }, settings.delay);
});

// -- the controls

const listen = (server, port) => new Promise((resolve) => server.listen(port, HOST, resolve));

const controls = {
  rotate: () => (addKey(), build()),
  retire: () => (keys.splice(1), build()),
  keys: () => ({ keys }),
  up: () => (server.listening ? undefined : listen(server, options.port)),
  down: async () => {
    const closed = new Promise((resolve) => server.close(resolve));
    server.closeAllConnections();
    await closed;
  },
  settings: (given) => void Object.assign(settings, given),
  answer: ({ path, ...given }) => void (Object.keys(given).length ? answers.set(path, given) : answers.delete(path)),
  user: ({ name, ...claims }) => void users.set(name, { groups: [], ...users.get(name), ...claims }),
  remove_user: ({ name }) => (endGrants(name), users.delete(name), undefined),
  end_grants: ({ name }) => endGrants(name),
  requests: () => ({ requests }),
  forget_requests: () => void (requests = []),
};

const control = http.createServer(async (request, response) => {
  let text = "";
  for await (const chunk of request) text += chunk;
  const result = await controls[request.url.slice(1)](JSON.parse(text || "{}"));
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(result ?? {}));
});

addKey();
build();
await listen(server, options.port);
await listen(control, 0);
console.log(JSON.stringify({ port: options.port, control: control.address().port }));
