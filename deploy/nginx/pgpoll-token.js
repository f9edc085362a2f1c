/*
 * Checks the bearer token of a request for nginx's auth_request: a JSON Web Token that an OpenID Connect provider has signed with RS256.
 * njs runs this module (Debian's package libnginx-mod-http-js). pgpoll.conf says how to use it, and sets the variables.
 *
 * The provider's keys are read for each request, so that a new file needs no reload.
 */
import fs from "fs";

export default { check };

/** Answers 204, with the user's name in X-User, or 401; or 500 if the keys cannot be read. */
async function check(r) {
    const keys = JSON.parse(fs.readFileSync(r.variables.pgpoll_keys)).keys;
    const user = await userOf(r.headersIn.Authorization || "", keys, r.variables.pgpoll_issuer, r.variables.pgpoll_audience);
    if (user) {
        r.headersOut["X-User"] = user;
        r.return(204);
    } else {
        r.return(401);
    }
}

/** The user whom the token names; undefined if it is not good. */
async function userOf(authorization, keys, issuer, audience) {
    const parts = authorization.match(/^Bearer ([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)$/i);
    const head = parts && parsed(parts[1]), claims = parts && parsed(parts[2]);
    if (!head || !claims || head.alg !== "RS256")
        return undefined;
    // Keys for encryption do not count. A token without a kid needs a key without one.
    const key = keys.find((one) => one.kty === "RSA" && (one.use || "sig") === "sig" && one.kid === head.kid);
    if (!key || !await isSigned(`${parts[1]}.${parts[2]}`, Buffer.from(parts[3], "base64url"), key))
        return undefined;

    const now = Date.now() / 1000;
    const isGood = claims.iss === issuer && [].concat(claims.aud).includes(audience)
        && typeof claims.exp === "number" && claims.exp > now && (claims.nbf === undefined || claims.nbf <= now)
        && typeof claims.sub === "string" && /^[^\x00-\x1f\x7f]+$/.test(claims.sub);
    return isGood ? claims.sub : undefined;
}

/** The object that a part of a token holds; undefined if it is none. */
function parsed(part) {
    try {
        const value = JSON.parse(Buffer.from(part, "base64url"));
        return value !== null && typeof value === "object" ? value : undefined;
    } catch (error) {
        return undefined;
    }
}

async function isSigned(text, signature, key) {
    const algorithm = { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
    const imported = await crypto.subtle.importKey("spki", subjectPublicKeyInfo(key), algorithm, false, ["verify"]);
    return await crypto.subtle.verify(algorithm, imported, signature, Buffer.from(text));
}

/** An RSA key as RFC 5280 wants it, in DER: older versions of njs do not import a JSON Web Key. */
function subjectPublicKeyInfo(key) {
    const rsaEncryption = Buffer.from("300d06092a864886f70d0101010500", "hex");
    const numbers = der(0x30, Buffer.concat([unsigned(key.n), unsigned(key.e)]));
    return der(0x30, Buffer.concat([rsaEncryption, der(0x03, Buffer.concat([Buffer.from([0]), numbers]))]));
}

/** A number, given in base64url. A leading zero byte keeps it positive. */
function unsigned(text) {
    return der(0x02, Buffer.concat([Buffer.from([0]), Buffer.from(text, "base64url")]));
}

function der(tag, content) {
    const length = content.length;
    const head = length < 0x80 ? [tag, length] : length < 0x100 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 0xff];
    return Buffer.concat([Buffer.from(head), content]);
}
